"""Recording: what is kept of a run while it runs, and how that becomes frames."""
