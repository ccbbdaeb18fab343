"""What a run takes where nothing else is said; docs/results/which-method.md has the numbers behind it."""

ESTIMATOR = "lozo"
"""Name of the method of `zoplat run` without `--estimator`: the one line that decides it."""

TRIED = ("lozo", "mezo")
"""Methods that `zoplat poc` tries where none are named."""
