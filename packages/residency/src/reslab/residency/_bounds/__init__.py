"""Bounds: what a plan costs at least and at most on a device, by roofline."""
