"""The data of a profile: its columns, what it says about itself, its file, and its tables."""
