"""What a run would take, before it: memory by owner over several modes, and which of them fit."""
