"""An answer of `survey`: the plan found for one run on one card, its bounds there, and the code that carries it out.

    answer = survey(rehearsal, "RTX 4090")[0]
    answer.fits, answer.why                  # whether it fits, and where memory is tightest
    answer.hint                              # if it does not fit: by how much, and the smallest change that would do
    answer.plan, answer.bounds
    print(answer.code())                     # Python that loads the weights for the plan, and runs it
    print(answer.as_code("diffusers"))       # the nearest settings of another tool

A rehearsal's meta says under "code" how its pipeline is loaded; without that entry, the code leaves loading to the
reader. The code writes the plan out, so that it needs no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl

from reslab.profiler import GIB
from reslab.residency._device._spec import DeviceSpec
from reslab.residency._plan._numerics import Lora, Numerics, VaeTiling
from reslab.residency._plan._placement import Placement, PlanError
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Workload
from reslab.residency._predict._bounds import Bounds
from reslab.residency._predict._rehearsed import workload
from reslab.residency._rehearse._rehearsal import Rehearsal

if TYPE_CHECKING:
    from reslab.residency._plan._code import Code


SURVEY: Mapping[str, Any] = {
    "device": pl.String,
    "size": pl.String,
    "plan": pl.String,  # a preset, such as "streaming"
    "fits": pl.Boolean,  # False: no plan fits, and the row is about the nearest plan
    "keep": pl.Int64,  # resident blocks of the component that streams; null if it does not stream
    "floor_s": pl.Float64,  # at least: all copying hides behind compute
    "ceiling_s": pl.Float64,  # if nothing overlaps
    "resident_s": pl.Float64,  # without a copy
    "peak_gib": pl.Float64,
    "moved_gib": pl.Float64,
    "host_gib": pl.Float64,
    "why": pl.String,
    "hint": pl.String,  # the smallest change with which it would fit; empty if it fits
}
_TILED = "The VAE decodes in tiles, which changes bits, since no plan fits without."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The answer of `survey` for one rehearsed run on one card.

    Attributes:
        label: The label of the rehearsal, such as its size.
        bounds: The bounds of the plan on the card.
        rehearsal: The rehearsed run.
        keep: Resident blocks of the component that streams; None if it does not stream.
        hint: If the plan does not fit, a sentence that says by how much, in which stage, and the smallest change with
            which it would; else "".
    """

    label: str
    bounds: Bounds
    rehearsal: Rehearsal = field(repr=False)
    keep: int | None
    hint: str

    @property
    def plan(self) -> Plan:
        """Return the plan that keeps most and fits, or the nearest plan if none fits."""
        return self.bounds.plan

    @property
    def device(self) -> DeviceSpec:
        """Return the card."""
        return self.bounds.device

    @property
    def fits(self) -> bool:
        """Return whether device and host have the memory."""
        return self.bounds.fits

    @property
    def why(self) -> str:
        """Return a sentence that says whether the plan fits, and where memory is tightest."""
        tiled = self.plan.numerics.vae_tiling is VaeTiling.ON
        times = f"No times: {self.bounds.unknown}." if self.bounds.unknown else ""
        return " ".join(filter(None, (self.bounds.why, times, _TILED * tiled)))

    @property
    def workload(self) -> Workload:
        """Return sizes and calls of the run with this plan; `apply(known=...)` takes them to schedule a first run."""
        return workload(self.rehearsal, self.plan)

    @property
    def frame(self) -> pl.DataFrame:
        """Return the answer as one row: the columns of `SURVEY`."""
        return frame([self])

    def code(self) -> str:
        """Return Python code that loads the weights for the plan and runs it; `print` it and paste.

        Weights that the plan has on disk stay there, so loading needs no more host memory than the plan.

        Raises:
            PlanError: The plan does not fit; the message says which change would help.
        """
        if not self.fits:
            raise PlanError(f"no plan fits, so there is no code to run. {self.hint}")
        return code(self.plan, self.rehearsal.meta)

    def as_code(self, tool: str) -> Code:
        """Return the nearest settings of another tool, with all differences; see `Plan.as_code`."""
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


def frame(answers: Iterable[Answer]) -> pl.DataFrame:
    """Return a row an answer: the columns of `SURVEY`."""
    return pl.DataFrame(list(map(_row, answers)), schema=dict(SURVEY), orient="row")


def _row(answer: Answer) -> tuple[Any, ...]:
    limits = answer.bounds
    return (
        limits.device.name,
        answer.label,
        limits.plan.name,
        limits.fits,
        answer.keep,
        *_seconds(limits),
        limits.peak_bytes / GIB,
        limits.moved_bytes / GIB,
        (limits.memory.pinned_bytes + limits.memory.pageable_bytes) / GIB,
        answer.why,
        answer.hint,
    )


def _seconds(limits: Bounds) -> tuple[float | None, ...]:
    """Return floor, ceiling and the time without a copy; None each if the device's rates are not known."""
    if limits.unknown:
        return None, None, None
    return limits.floor_ns / 1e9, limits.ceiling_ns / 1e9, limits.compute_ns / 1e9


#: The entry of a rehearsal's meta that says how its pipeline is loaded, and its keys; values are Python code.
CODE = "code"
IMPORTS, LOAD, FILES, REHEARSAL, RUN = "imports", "load", "files", "rehearsal", "run"


def code(plan: Plan, meta: Mapping[str, Any]) -> str:
    """Return Python code that loads a rehearsed pipeline for a plan, and runs it.

    Args:
        plan: The plan.
        meta: The meta of the rehearsal.
    """
    texts = {**_placeholders(meta), **meta.get(CODE, {})}
    known = f"residency.workload({texts[REHEARSAL]}, plan)" if texts[REHEARSAL] else ""
    arguments = ["pipe", "plan"]
    arguments += [f"files={texts[FILES]}"] if texts[FILES] else []
    arguments += ["known=known"] if known else []
    lines = [texts[IMPORTS], "", f"plan = {plan_text(plan)}", *texts[LOAD]]
    lines += [f"known = {known}"] if known else []
    return "\n".join([*lines, f"with residency.apply({', '.join(arguments)}):", f"    {texts[RUN]}", ""])


def plan_text(plan: Plan) -> str:
    """Return a plan as an expression.

    >>> print(plan_text(Plan.of({"vae": "swap", "transformer": {"placement": "layerwise", "resident": 2}})))
    residency.Plan.of(
        {
            'vae': 'swap',
            'transformer': {'placement': 'layerwise', 'resident': 2},
        },
        name='plan',
    )
    """
    lines = [f"        {key!r}: {value!r}," for key, value in _settings(plan)]
    return "\n".join(["residency.Plan.of(", "    {", *lines, "    },", f"    name={plan.name!r},", ")"])


def _settings(plan: Plan) -> Iterator[tuple[str, Any]]:
    for (component, stage), placement in plan.placements.items():
        yield (component if stage is None else f"{component}@{stage}"), _placement(placement)
    if plan.lora is not Lora.DYNAMIC:
        yield "lora", str(plan.lora)
    default = Numerics().fields()
    for name, value in plan.numerics.fields().items():
        if value != default[name]:
            yield f"numerics.{name}", value


def _placement(placement: Placement) -> str | Mapping[str, Any]:
    usual = Placement(kind=placement.kind).fields()
    own = {name: value for name, value in placement.fields().items() if value != usual.get(name)}
    kind = str(placement.kind)
    return {"placement": kind, **own} if own else kind


def _placeholders(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the code for a rehearsal that does not say how its pipeline is loaded."""
    name, request = meta.get("pipeline", "pipeline"), meta.get("request", {})
    given = ", ".join(["...", *(f"{key}={value!r}" for key, value in request.items())])
    return {
        IMPORTS: "from reslab import residency",
        LOAD: [f"pipe = ...  # {name}, loaded to host memory"],
        FILES: "",
        REHEARSAL: "",
        RUN: f"pipe.run({given})",
    }
