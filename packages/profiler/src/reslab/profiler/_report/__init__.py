"""Profiles for the eye: charts, a table, a trace."""
