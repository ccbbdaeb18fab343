"""A matrix of runs, and one table of what they came to."""
