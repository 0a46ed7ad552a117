"""Bounds: what a plan costs on a device if copies and compute overlap, and if nothing does, by roofline."""
