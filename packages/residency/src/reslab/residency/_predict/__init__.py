"""Bounds of a rehearsed run on a device, before it runs: the time of each stage and the bytes in each memory."""
