"""A profile: its frames, their schema, its file, and the views of it."""
