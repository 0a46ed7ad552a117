"""The engine: it carries out a plan's moves in a running pipeline, with real copies on any device."""
