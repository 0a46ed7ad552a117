"""The difference between a run with the LoRA merged and one with the LoRA added on the fly: in weights and results.

    lora_difference(pipe, dict(prompt="a heron over a weir", seed=7))

A merged weight is rounded to its type once, so a large weight can lose much of a small update; on the fly the update
keeps its own precision. Neither result is exact: the runs are compared with each other, and the weights with a sum in
float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from reslab.residency._engine._apply import apply
from reslab.residency._errors import ResidencyError
from reslab.residency._model._lora import ComponentLora, merge
from reslab.residency._plan._numerics import MERGED, Lora
from reslab.residency._plan._placement import layerwise
from reslab.residency._plan._plan import Plan
from reslab.stages import Kind, Pipeline

DIFFERENCE: Mapping[str, Any] = {
    "what": pl.String,
    "dtype": pl.String,
    "elements": pl.Int64,
    "rms": pl.Float64,
    "max_abs": pl.Float64,
    "relative": pl.Float64,
}


def lora_difference(pipeline: Pipeline, request: Mapping[str, Any]) -> pl.DataFrame:
    """Run a request with the LoRA added on the fly and with it merged, and return how far apart they are.

    Args:
        pipeline: A pipeline with a LoRA that is on in some of its stages.
        request: The request, with a seed: without one the noise differs too.

    Returns:
        A row each for the merged weights of a component and its LoRA's update, both against the sum in float64; then a
        row for each array of the run that differs, merged against on the fly. `rms` is the root mean square of the
        value itself, `max_abs` the largest difference, `relative` the root mean square of the difference over `rms`.

    Raises:
        ResidencyError: If no LoRA was on in the run.
    """
    seen = _LoraObserver(pipeline)
    with pipeline.observe(seen):
        on_the_fly = _run(pipeline, request, Lora.DYNAMIC, ())
    if not seen.adapted:
        raise ResidencyError("no LoRA was on in this run, so there is nothing to merge; load one, and switch it on")
    merged = _run(pipeline, request, Lora.MERGED, seen.adapted)
    rows = [row for name, adapted in seen.adapted.items() for row in _weights(name, adapted)]
    return pl.DataFrame([*rows, *_values(on_the_fly, merged)], schema=dict(DIFFERENCE), orient="row")


class _LoraObserver:
    """Records the adapters that are on, with their strengths, at each call of a component; the last call counts."""

    def __init__(self, pipeline: Pipeline) -> None:
        modules = {name: each for name, each in pipeline.components.items() if isinstance(each, torch.nn.Module)}
        self._all = {name: ComponentLora(module) for name, module in modules.items()}
        self.adapted: dict[str, ComponentLora] = {}

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        component = name.partition(".")[0]
        if kind == Kind.COMPONENT and self._all[component].is_on:
            self.adapted[component] = self._all[component]
            self.adapted[component].capture()

    def end(self, error: BaseException | None = None) -> None:
        pass


def _run(pipeline: Pipeline, request: Mapping[str, Any], lora: Lora, copies: Any) -> dict[str, Any]:
    """Return all values of a run that holds as little on the device as possible."""
    names = [name for name, each in pipeline.components.items() if isinstance(each, torch.nn.Module)]
    places = dict.fromkeys([*names, *(name + MERGED for name in copies)], layerwise())
    result, pipeline.result = pipeline.result, None
    try:
        with apply(pipeline, Plan.of({**places, "lora": lora})):
            return dict(pipeline.run(**{name: _as_it_is(value) for name, value in request.items()}))
    finally:
        pipeline.result = result


def _as_it_is(value: Any) -> Any:
    """Return a value of the request for one run; a generator is copied, so that each run begins with its state."""
    return value.clone_state() if isinstance(value, torch.Generator) else value


def _weights(name: str, adapted: ComponentLora) -> Iterator[tuple[Any, ...]]:
    """Yield the rounding error of a component's merged weights, relative to the weights and to the update."""
    count, largest, squares = 0, 0.0, np.zeros(3)
    for key, (layer, weight) in adapted.reached.items():
        exact = copy.deepcopy(layer).double()
        before = exact.get_base_layer()._parameters[weight].data
        merge(exact, exact.get_base_layer(), adapted.strengths(layer))
        sum_of_both = exact.get_base_layer()._parameters[weight].data
        error = adapted.merged(key, lambda each: each.data).double() - sum_of_both.cpu()
        count, largest = count + error.numel(), max(largest, float(error.abs().max()))
        squares += [float(each.square().sum()) for each in (error, sum_of_both, sum_of_both - before)]
        dtype = layer.get_base_layer()._parameters[weight].dtype
    error_rms, value_rms, update_rms = np.sqrt(squares / count)
    for what, rms in (("merged weights", value_rms), ("LoRA's update of them", update_rms)):
        yield f"{name}: {what}", _text(dtype), count, rms, largest, error_rms / rms


def _values(on_the_fly: Mapping[str, Any], merged: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    others = dict(_arrays(merged))
    for what, (own, dtype) in _arrays(on_the_fly):
        error, rms = others[what][0] - own, np.sqrt(np.square(own).mean())
        if error.any():
            yield what, dtype, own.size, rms, np.abs(error).max(), np.sqrt(np.square(error).mean()) / rms


def _arrays(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[np.ndarray, str]]]:
    """Yield the arrays among values and in their fields, as float64, with their former type."""
    for name, value in values.items():
        if isinstance(value, (torch.Tensor, np.ndarray)):
            own = value.double().cpu().numpy() if isinstance(value, torch.Tensor) else value.astype(np.float64)
            yield name, (own, _text(value.dtype))
        elif isinstance(value, Mapping):
            yield from _arrays({f"{name}.{key}": each for key, each in value.items()})
        elif is_dataclass(value):
            yield from _arrays({f"{name}.{field.name}": getattr(value, field.name) for field in fields(value)})


def _text(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
