"""Chains that stay on an NVIDIA GPU: CUDA sources, their compilation, and the loop around them.

What `TensorRtEngine.device_loop` gives; nothing else imports this package, and cuda-python is imported when it is used.
"""
