"""From text to token ids, and how rows share a batch."""
