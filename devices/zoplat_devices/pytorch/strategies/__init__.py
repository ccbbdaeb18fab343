"""How several losses are evaluated: sequential, batched, streaming."""
