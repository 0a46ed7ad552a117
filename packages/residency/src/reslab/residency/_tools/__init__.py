"""Plans as code for other tools."""
