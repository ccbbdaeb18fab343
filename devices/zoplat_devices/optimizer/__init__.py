"""The engine inside a training loop of PyTorch: `zoplat.torch`."""
