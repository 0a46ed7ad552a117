"""Named stages, their composition into pipelines, and the observation of runs.

    from reslab.stages import Pipeline, Stage, stage

    class Halve(Stage):
        writes = ("half_width",)

        def run(self, width):
            return {"half_width": width // 2}

>>> class Halve(Stage):
...     writes = ("half_width",)
...     def run(self, width):
...         return {"half_width": width // 2}
>>> Pipeline(result="half_width").add(Halve).run(width=128)
64

Read on in `_stage` (stages), `_pipeline` (composition), `_names` and `_registry` (names of stages), `_events`
(observers and conductors) and `_blocks` (blocks of Modular Diffusers as stages). `support` has helpers for packages
that are built on this one. Importing `reslab.stages` loads neither torch nor diffusers.
"""

from reslab.stages._blocks import BlockStage
from reslab.stages._choice import Choice
from reslab.stages._events import Conductor, Kind, Observer, Subscription
from reslab.stages._names import Names, PipelineError, ProfileNames, profile_names
from reslab.stages._pipeline import Pipeline
from reslab.stages._stage import REQUIRED, Signature, Stage, stage
from reslab.stages._stages import Stages
from reslab.stages._stock import Section, StockStage
from reslab.stages._values import Values

__version__ = "0.2.0"

__all__ = [
    "REQUIRED",
    "BlockStage",
    "Choice",
    "Conductor",
    "Kind",
    "Names",
    "Observer",
    "Pipeline",
    "PipelineError",
    "ProfileNames",
    "Section",
    "Signature",
    "Stage",
    "Stages",
    "StockStage",
    "Subscription",
    "Values",
    "profile_names",
    "stage",
]


def __dir__() -> list[str]:
    return __all__
