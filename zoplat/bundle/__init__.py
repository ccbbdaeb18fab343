"""Bundles: a run packed for a board, in a folder that is verified before it is used."""
