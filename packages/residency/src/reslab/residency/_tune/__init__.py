"""Which plan: the one that fits and takes least, for one card or many, and what would help."""
