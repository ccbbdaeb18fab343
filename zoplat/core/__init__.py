"""What a plugin author sees: blocks, random numbers, directions, and the parts that use them."""
