"""The settings of a run: where they come from, how they are checked, and how parts are written as tables."""
