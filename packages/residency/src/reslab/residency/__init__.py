"""Where every weight of a diffusion pipeline lives while it runs: to be predicted, chosen and applied.

Nothing is public yet; the README says what is to come. Until then `reslab.stages`, `reslab.profiler` and `reslab.ltx2`
run pipelines and measure them without it.
"""

__version__ = "0.1.0"

__all__: list[str] = []
