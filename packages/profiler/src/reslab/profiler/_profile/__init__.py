"""A profile: its frames, their schema, its file and its tables."""
