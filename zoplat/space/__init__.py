"""θ as a vector space: where the arrays stand, and who moves them."""
