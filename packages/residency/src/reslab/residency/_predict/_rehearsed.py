"""The workload of a rehearsal: sizes and calls, as a plan's `lora` and `numerics` change them.

    workload(rehearsal)                                    # dynamic LoRA
    workload(rehearsal, Plan.of({"lora": "merged"}))       # a second transformer, "transformer+lora", for refining

With `lora="dynamic"` the LoRA's weights belong to the component that carries them. With "merged" there are no LoRA
weights, and calls with the LoRA run on a second component of the same size, named with "+lora". With
`weight_dtype="float8"` the blocks of the denoising component take half the bytes. With `pass_batching="batched"` the
passes of a step are one call, and their activations add up. With `vae_tiling="on"` components that can decode in tiles
do. Buffers never leave the device, so they count with the activations.

With float8, the 16-bit copy of the layer that computes is not counted: a rehearsal has bytes by block and not by layer,
and the bytes that an operation reads do not tell weights from activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import polars as pl

from reslab.residency._plan._numerics import MERGED, Lora, PassBatching, VaeTiling, WeightDtype
from reslab.residency._plan._plan import Plan
from reslab.residency._plan._workload import Call, ComponentSize, Workload
from reslab.residency._rehearse._rehearsal import Rehearsal

_HALVED = {"bfloat16", "float16"}  # float8 halves the bytes of 16-bit types


def workload(rehearsal: Rehearsal, plan: Plan | None = None) -> Workload:
    """Return sizes and calls of a rehearsal, as a plan's `lora` and `numerics` change them.

    Args:
        rehearsal: A rehearsed run.
        plan: The plan with those choices; by default an empty plan.
    """
    return _Reading(rehearsal=rehearsal, plan=plan or Plan.of()).workload()


def traced(*, merged: bool, tiled: bool) -> pl.Expr:
    """Return an expression for the trace of a call: plain, with the LoRA merged, or in tiles.

    Args:
        merged: Whether calls with a LoRA run with the LoRA merged.
        tiled: Whether calls that can compute in tiles do.
    """
    wanted = [name for name, on in (("merged_trace", merged), ("tiled_trace", tiled)) if on]
    return pl.coalesce(*wanted, "trace")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A rehearsal, read with the choices of a plan."""

    rehearsal: Rehearsal
    plan: Plan

    def workload(self) -> Workload:
        stages = tuple(self.rehearsal.glue["registered_name"].cast(pl.String))
        grouped = [list(group) for _, group in groupby(self.rows, key=self.piece)]
        return Workload(
            components=self.components,
            stages=stages,
            calls=tuple(map(self.call, grouped)),
            activations=dict(self.activations(stages, grouped)),
        )

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The calls, with the memory peak of their traces."""
        tiled = self.plan.numerics.vae_tiling is VaeTiling.ON
        calls = self.rehearsal.calls.with_columns(trace=traced(merged=self.merged, tiled=tiled))
        peaks = self.rehearsal.traces.select("trace", peak=pl.col("activation_peak_bytes") + pl.col("workspace_bytes"))
        joined = calls.join(peaks, on="trace", how="left", maintain_order="left")
        names = pl.col("registered_name", "component", "method", "guidance_pass").cast(pl.String)
        return joined.with_columns(names).rows(named=True)

    @property
    def merged(self) -> bool:
        return self.plan.lora is Lora.MERGED

    @property
    def batched(self) -> bool:
        return self.plan.numerics.pass_batching is PassBatching.BATCHED

    def name(self, row: dict[str, Any]) -> str:
        with_lora = self.merged and row["merged_trace"] is not None
        return row["component"] + (MERGED if with_lora else "")

    def piece(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """Return a key that is equal for rows of one call: a call by itself, or all passes of a step."""
        together = self.batched and row["step"] is not None
        return (row["registered_name"], self.name(row), row["step"], None if together else row["call"])

    def call(self, rows: list[dict[str, Any]]) -> Call:
        """Return the call of these rows: one row, or all passes of a step."""
        first = rows[0]
        return Call(
            stage=first["registered_name"],
            component=self.name(first),
            method=first["method"],
            blocks=self.blocks[first["trace"]],
            traces=tuple(row["trace"] for row in rows),
            step=first["step"],
            guidance_pass=first["guidance_pass"] if len(rows) == 1 else None,  # a batched call makes all passes
        )

    @cached_property
    def blocks(self) -> dict[int, tuple[int, ...]]:
        """The blocks of each trace, in the order of computing."""
        inside = self.rehearsal.segments.filter(pl.col("block") >= 0).sort("trace", "position")
        found: dict[int, tuple[int, ...]] = dict.fromkeys(self.rehearsal.traces["trace"].to_list(), ())
        for (trace,), part in inside.group_by("trace", maintain_order=True):
            found[int(trace)] = tuple(block for block, _ in groupby(part["block"].to_list()))
        return found

    @cached_property
    def components(self) -> dict[str, ComponentSize]:
        second = {self.name(row) for row in self.rows if self.name(row) != row["component"]}
        found = {}
        for row in self.rehearsal.components.rows(named=True):
            found[row["component"]] = self.size(row)
            if row["component"] + MERGED in second:
                found[row["component"] + MERGED] = self.size(row)
        return found

    def size(self, row: dict[str, Any]) -> ComponentSize:
        blocks = self.rehearsal.blocks.filter(pl.col("component") == row["component"]).sort("block")
        lora = blocks["lora_bytes"] * (not self.merged)
        # float8 is layerwise casting of the model that denoises; text encoder and VAE keep their type
        denoises = any(call["component"] == row["component"] and call["step"] is not None for call in self.rows)
        halved = denoises and row["dtype"] in _HALVED and self.plan.numerics.weight_dtype is WeightDtype.FLOAT8
        own = blocks["weight_bytes"] // 2 if halved else blocks["weight_bytes"]
        outside = row["outside_bytes"] + (0 if self.merged else row["lora_bytes"] - blocks["lora_bytes"].sum())
        return ComponentSize(outside_bytes=outside, block_bytes=tuple(own + lora))

    def activations(self, stages: tuple[str, ...], grouped: list[list[dict[str, Any]]]) -> Iterator[tuple[str, int]]:
        buffers = int(self.rehearsal.components["buffer_bytes"].sum())
        glue = dict(zip(stages, self.rehearsal.glue["peak_bytes"], strict=True))
        for stage in stages:
            own = [group for group in grouped if group[0]["registered_name"] == stage]
            peaks = [group[0]["live_bytes"] + sum(row["peak"] for row in group) for group in own]
            # buffers are on the device all the time, and no plan places them
            yield stage, buffers + max([glue[stage], *peaks])
