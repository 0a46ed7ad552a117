"""A plan as the nearest settings of another tool: text to paste, and everything in which that tool differs.

    print(plan.as_code("diffusers"))         # what differs as comments, then the code
    plan.as_code("ltx-pipelines").code       # a command line
    plan.as_code("diffusers").differences    # sentences; none where the tool does exactly what the plan says

Each tool has a module: it names the call that comes nearest to each placement, and describes, as a placement again,
what that call does. What differs between the two placements are the differences, so that none is left out. It reads
what a plan wants, `Wanted`, and knows no plan. On import it enters itself in `TOOLS`; the facade imports all of them.
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
    """What a plan wants of another tool.

    Args:
        places: Where each component lives.
        alone: Where it lives in one stage alone, by component and stage, if that is another place.
        lora: How the LoRA reaches the transformer.
        numerics: The other choices that change bits.
        are_all: Whether the pipeline has no other component.
        device: Where it computes, as torch calls it.
    """

    places: Mapping[str, Placement]
    alone: Mapping[tuple[str, str | None], Placement]
    lora: Lora
    numerics: Numerics
    are_all: bool
    device: str

    def __post_init__(self) -> None:
        freeze(self)


#: Writes what is wanted as code, and returns with it the differences, in sentences.
Writer = Callable[[Wanted], tuple[str, list[str]]]
#: By the tool's name; the module of each enters it.
TOOLS: dict[str, Writer] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The nearest settings of another tool, and in what they differ from the plan.

    Args:
        tool: Its name.
        code: Python, or a command line, as that tool is used.
        differences: Sentences; empty where the tool does what the plan says.
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
        told = f"<p>What differs from the plan:</p><ul>{items}</ul>" if items else "<p>Exactly the plan.</p>"
        return f"<p><b>{escape(self.tool)}</b></p><pre>{escape(self.code)}</pre>{told}"


def code_for(tool: str, wanted: Wanted) -> Code:
    """Return what is wanted as the nearest settings of a tool.

    Raises:
        PlanError: There is no such tool.
    """
    if tool not in TOOLS:
        raise PlanError(f"there is no code for {tool!r}, only for {' and '.join(map(repr, sorted(TOOLS)))}")
    code, differences = TOOLS[tool](wanted)
    return Code(tool=tool, code=code, differences=tuple(differences))
