"""Rehearsing: the real code of a pipeline, run without weights, and what it would have computed."""
