"""Devices: what a card can do and hold, with a source for every figure."""
