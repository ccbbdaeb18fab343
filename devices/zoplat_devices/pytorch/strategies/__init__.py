"""Evaluation strategies: how the losses at several points near θ are computed."""
