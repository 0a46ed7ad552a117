"""The comparison of two sets of runs."""
