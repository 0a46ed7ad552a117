"""Devices: rates and memory of a card, with a source for every figure."""
