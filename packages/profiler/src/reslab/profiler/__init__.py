"""Spans of a pipeline run as one tidy table, with charts that work offline."""

__version__ = "0.1.0"

__all__: list[str] = []
