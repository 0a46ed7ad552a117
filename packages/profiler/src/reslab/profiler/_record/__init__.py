"""Recording: the hot path, and the decoding of its logs into frames."""
