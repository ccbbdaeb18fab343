"""Tasks: from a row of data to what a model reads, what it may answer and how answers are judged. One file per task."""
