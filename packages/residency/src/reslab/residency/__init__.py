"""Where every weight of a diffusion pipeline lives while it runs: predicted, chosen, applied."""

__version__ = "0.1.0"

__all__: list[str] = []
