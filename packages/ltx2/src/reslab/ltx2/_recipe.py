"""The recipe that diffusers documents for two stages, as far as moving weights goes: the pipeline is called twice.

    work = documented_recipe(workload(rehearsal("LTX-2.3")))
    plan = preset("diffusers model offload", work)
    sum(row.fetched_bytes for row in footprint(plan, work))      # 131 GiB, where 66.6 do

The second call encodes the prompt again, so text encoder and connectors run before each of the two denoising stages
(diffusers 0.42.1, `docs/source/en/api/pipelines/ltx2.md`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reslab.residency import Call, Workload

PROMPT = ("TextEncodingStage", "LTX2TextConnectorStage")
REFINE = "LTX2RefinementStage"
AGAIN = "{} (second call)"


def documented_recipe(workload: Workload) -> Workload:
    """Return the workload of a two-stage run in which the prompt is encoded again for the second stage.

    Args:
        workload: Of a two-stage pipeline of this package, which encodes it once.
    """
    again = tuple(AGAIN.format(stage) for stage in PROMPT)
    place = workload.stages.index(REFINE)
    stages = (*workload.stages[:place], *again, *workload.stages[place:])
    repeated = {AGAIN.format(stage): workload.activations.get(stage, 0) for stage in PROMPT}
    return Workload(
        components=workload.components,
        stages=stages,
        calls=tuple(sorted(_calls(workload), key=lambda call: stages.index(call.stage))),
        activations={**workload.activations, **repeated},
    )


def _calls(workload: Workload) -> Iterator[Call]:
    for call in workload.calls:
        yield call
        if call.stage in PROMPT:
            yield replace(call, stage=AGAIN.format(call.stage))
