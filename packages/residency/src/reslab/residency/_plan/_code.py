"""A plan as the nearest settings of another tool: text to paste, and everything in which that tool differs.

    print(plan.as_code("diffusers"))         # what differs as comments, then the code
    plan.as_code("ltx-pipelines").code       # a command line
    plan.as_code("diffusers").differences    # sentences; none where the tool does exactly what the plan says

Each tool has a module: it names the call that comes nearest to each placement, and describes, as a placement again,
what that call does. What differs between the two placements are the differences, so that none is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from reslab.residency._plan import _code_diffusers, _code_ltx
from reslab.residency._plan._placement import Placement, PlanError
from reslab.residency._plan._presets import presets

if TYPE_CHECKING:
    from reslab.residency._plan._plan import Plan

#: Writes code and differences from a plan, the placement of each component, whether those are all, and the device.
Writer = Callable[["Plan", Mapping[str, Placement], bool, str], tuple[str, list[str]]]
TOOLS: Mapping[str, Writer] = {"diffusers": _code_diffusers.write, "ltx-pipelines": _code_ltx.write}


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


def as_code(plan: Plan, tool: str, *, components: Iterable[str] | None, device: str) -> Code:
    """Return a plan as the nearest settings of a tool; see `Plan.as_code`."""
    if tool not in TOOLS:
        raise PlanError(f"there is no code for {tool!r}, only for {' and '.join(map(repr, TOOLS))}")
    placed = dict.fromkeys(component for component, _stage in plan.placements)
    names = list(placed if components is None else dict.fromkeys((*components, *placed)))
    are_all = components is not None or plan.name in presets()
    code, differences = TOOLS[tool](plan, {name: plan.placement(name) for name in names}, are_all, device)
    return Code(tool=tool, code=code, differences=tuple(differences))
