"""Scores of a model as it stands."""
