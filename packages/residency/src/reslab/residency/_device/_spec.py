"""What a device can do and hold, each figure with its source and how far it can be trusted.

    card = device("RTX 4090")
    card.memory_bytes, card.link_bytes_per_s, card.matrix_flops_per_s["bfloat16"]
    card                                     # in a notebook: a table of figures, confidence and source

Rates are what is reached, where somebody measured it, else what the vendor promises; the table says which. Free memory
is less than all of it even on an idle card, since a context of the driver takes its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reslab.stages import Described

if TYPE_CHECKING:
    import polars as pl

#: What a CUDA context with torch's kernels takes of an idle card: assumed, from 0.4 to 0.6 GiB seen on such cards.
CONTEXT_BYTES = 2**29


class DeviceError(ValueError):
    """A device that is asked for does not exist, or cannot be described."""


class Confidence(Described):
    """How far a figure can be trusted.

    >>> Confidence("assumed").doc
    'Nobody measured or promised it for this device: derived from another, as the row says.'
    """

    MEASURED = "measured", "Somebody measured it on this device and published it."
    VENDOR = "vendor", "The vendor's datasheet or whitepaper says so."
    ASSUMED = "assumed", "Nobody measured or promised it for this device: derived from another, as the row says."
    DETECTED = "detected", "Read from this machine."
    TIMED = "timed", "Timed on this machine."
    GIVEN = "given", "You said so."


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Where a figure comes from."""

    confidence: Confidence
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds memory of a device, as far as the driver tells."""

    who: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """Describe one device and the host it sits in; `device` and `detect` make one.

    Args:
        name: What it is called.
        kind: What torch calls it: "cuda", "mps" or "cpu".
        memory_bytes: All of its memory.
        free_bytes: What of it a pipeline can have.
        memory_bytes_per_s: Bandwidth of that memory.
        matrix_flops_per_s: Throughput of matrix products and convolutions, by torch's name of the type.
        attention_flops_per_s: The same of attention; a type that is missing runs as matrix products do.
        host_ns_per_operation: What issuing one operation costs the host, in nanoseconds.
        link_bytes_per_s: Copies from pinned host memory to the device.
        link_back_bytes_per_s: Copies from the device to pinned host memory.
        link_pageable_bytes_per_s: Copies from host memory that is not pinned.
        disk_bytes_per_s: Reading weights from disk in sequence.
        host_memory_bytes: Memory of the host that a plan may use: of this machine, what is available, less a reserve.
        pinnable_bytes: How much of it can be pinned.
        unified: Whether host and device share one memory, so that there is nothing to move.
        evidence: Source and confidence of each figure, by its name.
        holders: Who holds memory of the device, from `detect`.
    """

    name: str
    kind: str = "cuda"
    memory_bytes: int
    free_bytes: int
    memory_bytes_per_s: int
    matrix_flops_per_s: Mapping[str, int]
    attention_flops_per_s: Mapping[str, int]
    host_ns_per_operation: int
    link_bytes_per_s: int
    link_back_bytes_per_s: int
    link_pageable_bytes_per_s: int
    disk_bytes_per_s: int
    host_memory_bytes: int
    pinnable_bytes: int
    unified: bool = False
    evidence: Mapping[str, Evidence] = field(default_factory=dict, repr=False)
    holders: tuple[Holder, ...] = ()

    def flops_per_s(self, kind: str, dtype: str) -> int | None:
        """Return the throughput of a kind of operation in a type, or None where nobody knows it.

        >>> from reslab.residency import device
        >>> device("H100").flops_per_s("attention", "bfloat16") / 1e12
        646.0
        """
        by_matrix = self.matrix_flops_per_s.get(dtype)
        return self.attention_flops_per_s.get(dtype, by_matrix) if kind == "attention" else by_matrix

    def table(self) -> pl.DataFrame:
        """Return a row a figure: figure, value (for reading), confidence, source."""
        from reslab.residency._device._tables import figures

        return figures(self)

    def __repr__(self) -> str:
        taken = f", {self.free_bytes / 2**30:.1f} free" if self.holders else ""
        return f"DeviceSpec({self.name!r}, {self.kind}, {self.memory_bytes / 2**30:.1f} GiB{taken})"

    def _repr_html_(self) -> str:
        from reslab.residency._device._tables import spec_html

        return spec_html(self)
