"""One training run: the loop, its steps, and the files it writes."""
