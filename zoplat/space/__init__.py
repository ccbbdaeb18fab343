"""The trainable weights θ as a vector space: lazy updates, backends that perform them, rounding, buffers."""
