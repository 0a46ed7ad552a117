"""Rehearsing: the real code of a pipeline runs without weights and records its operations, bytes and shapes."""
