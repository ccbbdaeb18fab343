"""zoplat-edge: training on a board, from a bundle and without torch."""
