"""Measurements of this machine, made with the engine's own copies."""
