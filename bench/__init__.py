"""Benchmarks of steps, memory and passes over the weights, against the published steps and bare forward passes.

`make bench` measures what docs/performance.md shows on a processor, `make bench-gpu` what it shows on a GPU.
"""
