"""Comparisons: a matrix of runs, and one table of their summaries."""
