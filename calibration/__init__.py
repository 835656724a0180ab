"""Trajectories and, later, quantization: what calibration needs to know about a model."""
