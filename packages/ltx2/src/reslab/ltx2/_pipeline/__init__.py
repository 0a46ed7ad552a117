"""LTX-2 as stages: what a request may be, and how a video is made of it."""
