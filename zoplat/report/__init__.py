"""A run as pages and pictures."""
