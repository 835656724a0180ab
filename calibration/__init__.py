"""What a model's own chains say about it: trajectories, and what is measured along them."""

from .trajectory import Trajectory, record_trajectory

__all__ = ["Trajectory", "record_trajectory"]
