"""Sessions without weights: the very code of a session on the meta device, its allocations traced."""
