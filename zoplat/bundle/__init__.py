"""A run packed for a board."""
