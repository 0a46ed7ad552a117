"""An answer: the plan that was found for one run on one card, what it costs there, and the code that carries it out.

answer = survey(rehearsal, "RTX 4090")[0]
answer.fits, answer.why                  # where it is tightest
answer.hint                              # where it does not fit: by how much, and the smallest change that would do
answer.plan, answer.bounds
print(answer.code())                     # loads the weights as the plan has them, and runs it
print(answer.as_code("diffusers"))       # the nearest settings of another tool
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from reslab.residency._bounds._bounds import Bounds
from reslab.residency._bounds._workload import workload
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import VaeTiling
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._rehearse._rehearsal import Rehearsal

if TYPE_CHECKING:
    import polars as pl

    from reslab.residency._plan._code import Code

_TILED = "The VAE decodes in tiles, since nothing fits without: that is another choice of bits."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What `survey` found for one rehearsed run on one card.

    Attributes:
        label: Of the rehearsal, such as its size.
        bounds: What the plan costs there.
        rehearsal: The run.
        keep: Blocks that stay of the component that streams; None where it does not stream.
        hint: Where it does not fit, by how much, in which stage, and the smallest change with which it would.
    """

    label: str
    bounds: Bounds
    rehearsal: Rehearsal = field(repr=False)
    keep: int | None
    hint: str

    @property
    def plan(self) -> Plan:
        """Return the plan: the one that keeps most and fits, or that comes nearest to it."""
        return self.bounds.plan

    @property
    def device(self) -> DeviceSpec:
        """Return the card."""
        return self.bounds.device

    @property
    def fits(self) -> bool:
        """Tell whether device and host have the memory."""
        return self.bounds.fits

    @property
    def why(self) -> str:
        """Return in a sentence whether it fits, and where it is tightest."""
        tiled = self.plan.numerics.vae_tiling is VaeTiling.ON
        times = f"No times: {self.bounds.unknown}." if self.bounds.unknown else ""
        return " ".join(filter(None, (self.bounds.why, times, _TILED * tiled)))

    @property
    def workload(self) -> Workload:
        """Return sizes and calls of the run with this plan: what `apply(known=...)` takes, to schedule a first run."""
        return workload(self.rehearsal, self.plan)

    @property
    def frame(self) -> pl.DataFrame:
        """Return the answer as one row: the columns of `SURVEY`."""
        from reslab.residency._report._survey import frame

        return frame([self])

    def code(self) -> str:
        """Return the Python that loads the weights as the plan has them, and runs it; `print` it and paste.

        What the plan has on disk stays there, so loading needs no more host memory than the plan says.

        Raises:
            PlanError: The plan does not fit; it says what would help.
        """
        from reslab.residency._report._answer_code import code

        return code(self)

    def as_code(self, tool: str) -> Code:
        """Return the nearest settings of another tool, with all that differs; see `Plan.as_code`."""
        names = self.rehearsal.components["component"].cast(str).to_list()
        return self.plan.as_code(tool, components=names, device=self.device.kind)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Answer):
            return NotImplemented
        return self._known == other._known and self.rehearsal == other.rehearsal

    def __hash__(self) -> int:
        return hash((self.label, self.plan, self.device.name))

    @property
    def _known(self) -> tuple[Any, ...]:
        return (self.label, self.plan, self.device, self.bounds.rows, self.bounds.memory, self.hint)

    def __repr__(self) -> str:
        limits = self.bounds
        verdict = "fits" if self.fits else "does not fit"
        known = not limits.unknown
        seconds = f"{limits.floor_ns / 1e9:.3g} to {limits.ceiling_ns / 1e9:.3g} s" if known else "times not known"
        return f"Answer({self.label} on {self.device.name}: {verdict}, {self.plan.name!r}, {seconds})"

    def _repr_html_(self) -> str:
        said = " ".join(filter(None, (self.why, self.hint)))
        code = f"<pre>{escape(self.code())}</pre>" if self.fits else ""
        title = f"{escape(self.label)} on {escape(self.device.name)}, {escape(self.plan.name)}"
        return f"<p><b>{title}</b>: {escape(said)}</p>{code}"
