"""One training run: the loop, its steps, and what it leaves on disk."""
