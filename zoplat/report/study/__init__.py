"""The report of a comparison: what its runs say, figures, and sections."""
