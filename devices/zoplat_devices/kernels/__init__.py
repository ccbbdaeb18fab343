"""Fused kernels for random numbers and weight updates, on processors and GPUs."""
