"""Named stages, their composition into pipelines, and the observation of what they do.

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

Read on in `_stage` (what a stage is), `_pipeline` (composition), `_names` and `_registry` (what stages are called),
`_events` (observers and conductors) and `_blocks` (blocks of Modular Diffusers as stages). Neither torch nor diffusers
is imported here.
"""

from reslab.stages._blocks import BlockStage
from reslab.stages._calls import shadowed
from reslab.stages._choice import Choice
from reslab.stages._described import Described
from reslab.stages._events import Conductor, Kind, Observer, Subscription
from reslab.stages._facade import lazy_names
from reslab.stages._frozen import Compared, FrozenDict, freeze
from reslab.stages._html_table import Cell, Markup, html_table
from reslab.stages._names import Names, PipelineError, ProfileNames, nearest, profile_names
from reslab.stages._output import output_path
from reslab.stages._parts import is_seen, parts_with_weights
from reslab.stages._pipeline import Pipeline
from reslab.stages._retry import keep_attributes
from reslab.stages._sequence import Stages
from reslab.stages._stage import REQUIRED, Signature, Stage, stage
from reslab.stages._stock import Section, StockStage
from reslab.stages._values import Values, describe

__version__ = "0.1.0"

__all__ = [
    "REQUIRED",
    "BlockStage",
    "Cell",
    "Choice",
    "Compared",
    "Conductor",
    "Described",
    "FrozenDict",
    "Kind",
    "Markup",
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
    "describe",
    "freeze",
    "html_table",
    "is_seen",
    "keep_attributes",
    "lazy_names",
    "nearest",
    "output_path",
    "parts_with_weights",
    "profile_names",
    "shadowed",
    "stage",
]


def __dir__() -> list[str]:
    return __all__
