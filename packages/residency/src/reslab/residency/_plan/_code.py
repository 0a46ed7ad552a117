"""A plan as the nearest settings of another tool: text to paste, and every difference to the plan.

    print(plan.as_code("diffusers"))         # the differences as comments, then the code
    plan.as_code("ltx-pipelines").code       # a command line
    plan.as_code("diffusers").differences    # sentences; empty if the tool does exactly what the plan says

Each tool has a module in `_tools`. It chooses the tool's call that is nearest to each placement, and describes the
effect of that call as a placement again. The differences are computed from the two placements, so that none is left
out. The module reads a `Wanted` and does not import `Plan`. On import it adds itself to `TOOLS`; the facade imports all
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from reslab.residency._plan._numerics import Lora, Numerics
from reslab.residency._plan._placement import Placement, PlanError
from reslab.stages.support import freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The wishes of a plan, as another tool's module reads them.

    Args:
        places: The placement of each component.
        alone: Placements for one stage alone that differ from these, by component and stage.
        lora: How the LoRA reaches the transformer.
        numerics: The other choices that change bits.
        are_all: Whether `places` lists every component of the pipeline.
        device: The device that computes, by torch's name.
    """

    places: Mapping[str, Placement]
    alone: Mapping[tuple[str, str | None], Placement]
    lora: Lora
    numerics: Numerics
    are_all: bool
    device: str

    def __post_init__(self) -> None:
        freeze(self)


#: Returns the wishes of a plan as code, and the differences in sentences.
Writer = Callable[[Wanted], tuple[str, list[str]]]
#: The writer of each tool by the tool's name; the tool's module adds it.
TOOLS: dict[str, Writer] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The nearest settings of another tool, and their differences to the plan.

    Args:
        tool: The tool's name.
        code: Python or a command line, as that tool is used.
        differences: Sentences; empty if the tool does exactly what the plan says.
    """

    tool: str
    code: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f"# differs: {sentence}\n" for sentence in self.differences) + self.code

    def __repr__(self) -> str:
        return f"Code({self.tool!r}, {len(self.code.splitlines())} lines, {len(self.differences)} differences)"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.differences)
        differs = f"<p>Differences to the plan:</p><ul>{items}</ul>" if items else "<p>Exactly the plan.</p>"
        return f"<p><b>{escape(self.tool)}</b></p><pre>{escape(self.code)}</pre>{differs}"


def code_for(tool: str, wanted: Wanted) -> Code:
    """Return the nearest settings of a tool to the wishes of a plan.

    Raises:
        PlanError: There is no code for this tool.
    """
    if tool not in TOOLS:
        raise PlanError(f"there is no code for {tool!r}, only for {' and '.join(map(repr, sorted(TOOLS)))}")
    code, differences = TOOLS[tool](wanted)
    return Code(tool=tool, code=code, differences=tuple(differences))
