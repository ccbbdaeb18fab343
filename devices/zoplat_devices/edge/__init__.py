"""Training from a bundle, without torch."""
