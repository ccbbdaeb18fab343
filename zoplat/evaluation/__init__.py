"""Scoring a model at fixed weights: prompts, predictions, and the metric of a task."""
