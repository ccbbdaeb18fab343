"""Models that run on an inference server: adapters are published to it, and it is asked for log-probabilities."""
