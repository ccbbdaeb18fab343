"""The devices of PyTorch: cpu, cuda and mps."""
