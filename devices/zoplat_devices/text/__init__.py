"""Text for language models: from examples to token ids, and from rows to the sequences of a batch."""
