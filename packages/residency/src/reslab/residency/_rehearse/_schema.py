"""The frames of a rehearsal: their names, columns and types.

A rehearsal is a relational record: `calls` are the component calls of one run in order, each of a distinct `trace`; a
trace is a sequence of `segments`; a segment is one block, or the operations between two blocks, and names the `body`
whose `operations` it runs. Equal blocks name the same body. Bytes and FLOPs are integers, text is Categorical.

    frame("blocks", rows)            # a frame of this schema
    check_frame(given, "blocks")     # refuses any other
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from polars.datatypes import DataTypeClass

#: Goes up when a column changes its name, type or meaning; files of another version are refused.
SCHEMA_VERSION = 1

Schema = Mapping[str, DataTypeClass]

COMPONENTS: Schema = {
    "component": pl.Categorical,
    "component_class": pl.Categorical,
    "dtype": pl.Categorical,
    "parameters": pl.Int64,  # without LoRA
    "weight_bytes": pl.Int64,  # of these parameters
    "buffer_bytes": pl.Int64,
    "lora_bytes": pl.Int64,
    "blocks": pl.Int64,  # repeated blocks, 0 if there are none
    "block_path": pl.Categorical,  # the list that holds them; several lists joined by ", "
    "outside_bytes": pl.Int64,  # part of weight_bytes outside the blocks
}
BLOCKS: Schema = {
    "component": pl.Categorical,
    "block": pl.Int64,
    "path": pl.Categorical,
    "weight_bytes": pl.Int64,
    "lora_bytes": pl.Int64,
}
CALLS: Schema = {
    "call": pl.Int64,
    "stage": pl.Categorical,  # profile name
    "registered_name": pl.Categorical,
    "stage_class": pl.Categorical,
    "component": pl.Categorical,
    "method": pl.Categorical,
    "step": pl.Int64,  # denoising step from 0, null outside
    "guidance_pass": pl.Categorical,  # null outside
    "trace": pl.Int64,
    "merged_trace": pl.Int64,  # the same call with the LoRA merged into the weights; null if none is active
    "tiled_trace": pl.Int64,  # the same call in tiles; null if the component has no such choice, or it changes nothing
    "shapes": pl.Categorical,  # of the arguments
    "live_bytes": pl.Int64,  # of values alive outside components when the call began, its arguments included
}
TRACES: Schema = {
    "trace": pl.Int64,
    "component": pl.Categorical,
    "method": pl.Categorical,
    "shapes": pl.Categorical,
    "lora": pl.Categorical,  # none, dynamic or merged
    "activation_peak_bytes": pl.Int64,  # above weights and live_bytes
    "workspace_bytes": pl.Int64,  # estimated for convolutions, on top of that peak
    "output_bytes": pl.Int64,
    "host_operations": pl.Int64,  # operations that launch work
    "flops": pl.Int64,
    "matmul_flops": pl.Int64,
    "attention_flops": pl.Int64,
    "conv_flops": pl.Int64,
    "read_bytes": pl.Int64,
    "written_bytes": pl.Int64,
}
SEGMENTS: Schema = {
    "trace": pl.Int64,
    "position": pl.Int64,
    "block": pl.Int64,  # -1 outside blocks
    "path": pl.Categorical,
    "body": pl.Int64,
}
OPERATIONS: Schema = {
    "body": pl.Int64,
    "position": pl.Int64,
    "op": pl.Categorical,
    "kind": pl.Categorical,
    "dtype": pl.Categorical,
    "flops": pl.Int64,  # of one operation, as are the next two
    "read_bytes": pl.Int64,
    "written_bytes": pl.Int64,
    "repeats": pl.Int64,  # equal operations in a row
}
GLUE: Schema = {
    "stage": pl.Categorical,
    "registered_name": pl.Categorical,
    "operations": pl.Int64,
    "flops": pl.Int64,
    "read_bytes": pl.Int64,
    "written_bytes": pl.Int64,
    "peak_bytes": pl.Int64,  # most bytes of values alive outside components
}
SCHEMAS: Mapping[str, Schema] = {
    "calls": CALLS,
    "traces": TRACES,
    "segments": SEGMENTS,
    "operations": OPERATIONS,
    "components": COMPONENTS,
    "blocks": BLOCKS,
    "glue": GLUE,
}


def frame(name: str, rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    """Build one of the frames from rows in the order of its schema.

    >>> frame("blocks", [("transformer", 0, "transformer_blocks.0", 4096, 0)]).shape
    (1, 5)
    """
    return pl.DataFrame(list(rows), schema=dict(SCHEMAS[name]), orient="row")


def check_frame(given: pl.DataFrame, name: str) -> None:
    """Raise ValueError unless a frame has exactly the columns and types of its schema."""
    schema = SCHEMAS[name]
    if dict(given.schema) != dict(schema):
        found = given.schema
        wrong = [f"{n} is {found.get(n, 'missing')}, not {t}" for n, t in schema.items() if found.get(n) != t]
        wrong += [f"{n} is not in the schema" for n in given.columns if n not in schema]
        raise ValueError(f"not a frame of {name}: {'; '.join(wrong)}.")
