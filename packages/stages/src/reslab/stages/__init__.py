"""Named stages, their composition and their observation, for diffusion pipelines."""

__version__ = "0.1.0"

__all__: list[str] = []
