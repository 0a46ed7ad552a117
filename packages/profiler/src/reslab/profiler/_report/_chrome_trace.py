"""A profile as a Chrome trace, which Perfetto (ui.perfetto.dev), chrome://tracing and speedscope open.

    export_chrome_trace(profile.spans, profile.memory, "run.json")     # or "run.json.gz", which is compressed

A lane is a track. Perfetto drops a slice that overlaps another on its track without lying inside it. So overlapping
spans (two copies at once, a second thread) get a further track of the same lane, and nothing is lost. A span that was
timed on the device is drawn twice: on the host's track where it was called, and on the compute track where it ran.
Memory samples are counters.

The format: Duygu Soysal and others, "Trace Event Format", Google, 2016; its times are microseconds.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from reslab.profiler._model._schema import COMPUTE, COPY, HOST
from reslab.profiler._report._timeline import STALL
from reslab.stages import Kind
from reslab.stages.support import output_path

Event = dict[str, Any]

_LANES = (HOST, COMPUTE, COPY, STALL)
_TRACKS_A_LANE = 100  # so that a lane's further tracks have numbers next to its first
_ARGS = ("stage", "registered_name", "component", "block", "step", "guidance_pass", "moved_bytes", "error")


def export_chrome_trace(spans: pl.DataFrame, memory: pl.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a profile's frames as JSON in the Trace Event Format.

    Args:
        spans: A frame of `SPAN_SCHEMA`, measured or predicted.
        memory: A frame of `MEMORY_SCHEMA`.
        path: The file to write; .json.gz is compressed, .json is not. An existing file is replaced.

    Raises:
        ValueError: The path has another ending.
    """
    target = output_path(path, "a trace", ".json", ".json.gz", "")
    trace = {"traceEvents": list(trace_events(spans, memory)), "displayTimeUnit": "ns"}
    text = json.dumps(trace).encode()
    packed = target.suffix.casefold() == ".gz"
    target.write_bytes(gzip.compress(text, mtime=0) if packed else text)


def trace_events(spans: pl.DataFrame, memory: pl.DataFrame) -> Iterator[Event]:
    """Yield the events of a profile's frames: names of tracks, then slices by track and time, then counters."""
    rows = spans.with_columns(pl.col(pl.Categorical).cast(pl.String)).rows(named=True)
    slices = sorted(_tracked(_slices(rows)), key=lambda event: (event["tid"], event["ts"], -event["dur"]))
    yield _meta("process_name", 0, name="reslab")
    for track in sorted({event["tid"] for event in slices}):
        lane, further = divmod(track, _TRACKS_A_LANE)
        yield _meta("thread_name", track, name=_LANES[lane] + (f" {further + 1}" if further else ""))
        yield _meta("thread_sort_index", track, sort_index=track)
    for event in slices:
        yield {**event, "ts": event["ts"] / 1000, "dur": event["dur"] / 1000}
    yield from _counters(memory)


def _slices(rows: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """Yield a slice for each span, and one more where it ran on the device; times still in nanoseconds."""
    for row in rows:
        on_device = row["device_start_ns"] is not None and row["device_ns"] is not None
        if row["kind"] == Kind.WAIT.value:
            yield _slice(row, STALL, row["start_ns"], row["host_ns"])
        elif row["lane"] == HOST:
            yield _slice(row, HOST, row["start_ns"], row["host_ns"])
        if on_device and row["kind"] != Kind.WAIT.value:
            copies = row["lane"] == COPY or row["kind"] == Kind.TRANSFER.value
            yield _slice(row, COPY if copies else COMPUTE, row["device_start_ns"], row["device_ns"])
        elif row["lane"] in (COMPUTE, COPY) and row["kind"] != Kind.WAIT.value:
            yield _slice(row, row["lane"], row["start_ns"], row["host_ns"])


def _slice(row: Mapping[str, Any], lane: str, start_ns: int, took_ns: int) -> Event:
    args = {name: row[name] for name in _ARGS if row[name] is not None}
    name = row["stage"] if row["kind"] == Kind.STAGE.value else row["name"]
    times = {"ts": start_ns, "dur": took_ns}
    return {"ph": "X", "name": name, "cat": row["kind"], "pid": 0, "tid": _LANES.index(lane), **times, "args": args}


def _tracked(slices: Iterable[Event]) -> Iterator[Event]:
    """Give each slice the first track of its lane on which it overlaps no other, except by lying inside it."""
    open_until: dict[int, list[list[int]]] = {}
    for event in sorted(slices, key=lambda event: (event["tid"], event["ts"], -event["dur"])):
        tracks = open_until.setdefault(event["tid"], [])
        end = event["ts"] + event["dur"]
        for ends in tracks:
            while ends and ends[-1] <= event["ts"]:
                ends.pop()
        place = next((n for n, ends in enumerate(tracks) if not ends or end <= ends[-1]), len(tracks))
        tracks += [[]] if place == len(tracks) else []
        tracks[place].append(end)
        yield {**event, "tid": event["tid"] * _TRACKS_A_LANE + place}


def _counters(memory: pl.DataFrame) -> Iterator[Event]:
    """Yield the samples: for each pool one counter of all its bytes, and one of its components, stacked."""
    text = memory.with_columns(pl.col("pool", "component").cast(pl.String)).sort("at_ns", maintain_order=True)
    held: dict[str, dict[str, int]] = {}
    for row in text.iter_rows(named=True):
        name, args = f"{row['pool']} memory (bytes)", {"allocated": row["allocated_bytes"]}
        if row["component"] is not None:
            name, args = f"{row['pool']} memory by component (bytes)", held.setdefault(row["pool"], {})
            args[row["component"]] = row["allocated_bytes"]
        yield {"ph": "C", "name": name, "pid": 0, "tid": 0, "ts": row["at_ns"] / 1000, "args": dict(args)}


def _meta(what: str, track: int, **args: Any) -> Event:
    return {"ph": "M", "name": what, "pid": 0, "tid": track, "ts": 0, "args": args}
