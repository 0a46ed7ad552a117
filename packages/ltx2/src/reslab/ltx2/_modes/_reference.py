"""The device mode that the reference chooses by itself (sglang 0.5.23's diffusion runtime, automatic mode, one GPU).

    reference_decision("LTX-2.3", residency.device("H200")).mode          # 'resident'
    reference_decision("LTX-2.3", slice_of_it).plan(rehearsal)            # the same mode, which does not fit

Its rules look at the name and the total memory of device 0, whichever device was selected, and at round numbers. Two
of its predicates disagree about an H200, one of them leaves LTX-2 out, and below 70 GiB free the transformer moves
whole. The rules were read from its sources; no code of it is repeated here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reslab.profiler import GIB
from reslab.residency import DeviceSpec, Placement, Plan, PlanError, Rehearsal, layerwise, resident, swap, workload

SOURCE = "sglang 0.5.23, multimodal_gen: pipelines, server arguments and layerwise defaults of LTX-2"
#: Its thresholds, in GiB: total memory for two transformers; free memory for one; total below which everything moves.
RESIDENT_TOTAL, TRANSFORMER_FREE, EVERYTHING_TOTAL = 130, 70, 30
RESIDENT_NAME = "H200"
LAYERWISE = ("text_encoder", "image_encoder", "vae")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceDecision:
    """Hold the reference's decision for one machine.

    Attributes:
        mode: "original" or "resident".
        transformer: "resident", or "swap": moved whole for its stages.
        auxiliaries: "resident", "layerwise" (text and image encoder and VAE), or "swap".
        explicit: Components that the user placed; they stay as they were placed.
        why: The rules that decided, in their order.
        source: The release whose rules these are.
    """

    mode: str
    transformer: str
    auxiliaries: str
    explicit: frozenset[str]
    why: tuple[str, ...]
    source: str = SOURCE

    def plan(self, rehearsal: Rehearsal) -> Plan:
        """Return the decision as a plan for a rehearsed run, so that `bounds` can compare it with ours."""
        plan = Plan.of(name=f"reference {self.mode}")
        if self.mode == "resident":
            plan = plan.decide({"lora": "merged"}, why=self.why[0])
        for name in workload(rehearsal, plan).components:
            plan = plan.decide({name: self._place(name)}, why="; ".join(self.why))
        return plan

    def _place(self, name: str) -> Placement:
        own = self.transformer if name.startswith("transformer") else self.auxiliaries
        if own == "layerwise":
            return layerwise() if name in LAYERWISE else resident()
        return swap() if own == "swap" else resident()


def reference_decision(
    variant: str,
    device_0: DeviceSpec,
    *,
    free_bytes: int | None = None,
    mode: str | None = None,
    explicit: Collection[str] = (),
) -> ReferenceDecision:
    """Return the reference's decision for a machine.

    >>> from reslab.residency import device
    >>> reference_decision("LTX-2.3", device("H100")).mode
    'original'

    Args:
        variant: The model's name; the rule for components other than transformers applies to LTX-2.3 alone.
        device_0: The first device of the machine, the only one that its rules look at.
        free_bytes: The least free memory; by default the device's own figure.
        mode: "original" or "resident", where the user named one.
        explicit: Components that the user placed off the device.

    Raises:
        PlanError: The mode is another one, or it is "resident" and the user placed the transformer: the reference
            refuses that too.
    """
    named = frozenset(explicit)
    chosen, why = _mode(device_0, mode, named)
    free = device_0.free_bytes if free_bytes is None else free_bytes
    transformer, because = _transformer(device_0, chosen, free)
    auxiliaries, therefore = _auxiliaries(variant, device_0, chosen)
    return ReferenceDecision(
        mode=chosen,
        transformer=transformer,
        auxiliaries=auxiliaries,
        explicit=named,
        why=(why, because, therefore),
    )


def _mode(device: DeviceSpec, mode: str | None, explicit: frozenset[str]) -> tuple[str, str]:
    if mode not in (None, "original", "resident"):
        raise PlanError(f"the reference knows the device modes 'original' and 'resident'; got {mode!r}")
    if mode is not None:
        if mode == "resident" and "transformer" in explicit:
            raise PlanError("in the reference, 'resident' and a transformer that is placed explicitly are an error")
        return mode, f"{mode} was named"
    if device.kind != "cuda":
        return "original", "not CUDA: original"
    by_name, by_size = RESIDENT_NAME in device.name, device.memory_bytes >= RESIDENT_TOTAL * GIB
    if not (by_name or by_size):
        return "original", f"device 0 is no {RESIDENT_NAME} and has under {RESIDENT_TOTAL} GiB: original"
    what = f"{RESIDENT_NAME} in the name" if by_name else f"{RESIDENT_TOTAL} GiB or more in total"
    if "transformer" in explicit:
        return "original", f"{what} of device 0 would mean resident, but the transformer was placed: original"
    return "resident", f"{what} of device 0: resident"


def _transformer(device: DeviceSpec, mode: str, free: int) -> tuple[str, str]:
    if mode == "resident":
        return "resident", "both transformers stay"
    if free >= TRANSFORMER_FREE * GIB:
        return "resident", f"{TRANSFORMER_FREE} GiB or more are free: the transformer stays"
    return "swap", f"under {TRANSFORMER_FREE} GiB are free: the transformer moves whole, and is never streamed"


def _auxiliaries(variant: str, device: DeviceSpec, mode: str) -> tuple[str, str]:
    total = device.memory_bytes
    if mode == "resident" and variant.startswith("LTX-2.3") and device.kind == "cuda" and total >= RESIDENT_TOTAL * GIB:
        return "resident", f"LTX-2.3 in resident mode with {RESIDENT_TOTAL} GiB or more: everything else stays"
    if total < EVERYTHING_TOTAL * GIB:
        return "swap", f"under {EVERYTHING_TOTAL} GiB in total: everything moves"
    return "layerwise", "text encoder, image encoder and VAE stream by default"
