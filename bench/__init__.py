"""Benchmarks of steps, memory and passes over the weights, against the published steps and bare forward passes.

`make bench` measures what docs/performance.md shows on a processor, `make bench-gpu` what it shows on a GPU.
"""

import zoplat_devices.pytorch  # noqa: F401  # before torch, so that its threads wait as they do in a run
