"""The settings of a run: parts as tables, and layers of rising authority."""
