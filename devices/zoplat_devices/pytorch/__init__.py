"""The devices of PyTorch: cpu, cuda and mps."""

import os

SPINS = "10000"
"""Turns for which a thread of OpenMP waits before it sleeps: about 0.2 ms, where libgomp's own default is some 6 ms.

Beside another process, a thread that waits in turns holds the core that the one it waits for needs.
"""

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & {*os.environ}:
    os.environ["GOMP_SPINCOUNT"] = SPINS  # read once, when torch is imported
