"""Machine probes: one file for each."""
