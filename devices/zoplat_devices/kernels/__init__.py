"""Random numbers and moves of weights in fused kernels, for processors and GPUs."""
