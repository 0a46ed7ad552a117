"""Checkpoints: where weights come from, how they are checked and loaded, and models without any."""
