"""LTX-2 and LTX-2.3 as named stages over diffusers' own blocks, with tiny models of the true geometry."""

__version__ = "0.1.0"

__all__: list[str] = []
