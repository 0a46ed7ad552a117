"""What a device can do and hold, each figure with its source and how far it can be trusted.

    card = device("RTX 4090")
    card.memory_bytes, card.link_bytes_per_s, card.matrix_flops_per_s["bfloat16"]
    card                                     # in a notebook: a table of figures, confidence and source

Rates are what was measured, where a measurement is published, else what the vendor promises or what follows from units
and clock; the table says which. A rate that no source has is missing: the memory of such a card is known all the same,
and `missing` says what to give for times. Free memory is less than all of it even on an idle card, since a context of
the driver takes its share.

How fast copies between host and device are, as somebody timed them: what stands in for a catalogue's link.

    link = measure_link("cuda:0")                            # `_calibrate/_link` times it
    detect("cuda:0", link=link)                              # this machine, with its own link
    device("mine", like="RTX 4090", link=link)               # a card that the catalogue does not know

The data is here and needs no torch, so a link that was measured once can be described anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from reslab.residency._device._evidence import Confidence, Evidence, Holder
from reslab.stages.support import FrozenDict, freeze

if TYPE_CHECKING:
    import polars as pl


#: What a CUDA context with torch's kernels takes of an idle card: assumed, from 0.4 to 0.6 GiB seen on such cards.
CONTEXT_BYTES = 2**29


def not_known(lacking: Mapping[str, str]) -> str:
    """Return the sentence about what is not known of a device, by the argument that gives each; "" for nothing."""
    if not lacking:
        return ""
    arguments = " and ".join(dict.fromkeys(lacking.values()))
    figures = "its own figure" if len(set(lacking.values())) == 1 else "its own figures"
    return (
        f"it is not known {' and '.join(lacking)}; give {arguments} with {figures}, or like='...', the card that it is "
        "like"
    )


class DeviceError(ValueError):
    """A device that is asked for does not exist, or cannot be described."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """Describe one device and the host it sits in; `device` and `detect` make one.

    Args:
        name: What it is called.
        kind: What torch calls it: "cuda" (AMD's too), "xpu", "mps" or "cpu".
        memory_bytes: All of its memory.
        free_bytes: What of it a pipeline can have.
        memory_bytes_per_s: Bandwidth of that memory; None where it is not known.
        matrix_flops_per_s: Throughput of matrix products and convolutions, by torch's name of the type; one that is not
            known is not there.
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
    memory_bytes_per_s: int | None
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
    evidence: Mapping[str, Evidence] = field(default_factory=FrozenDict, repr=False)
    holders: tuple[Holder, ...] = ()

    def __post_init__(self) -> None:
        freeze(self)

    @property
    def missing(self) -> str:
        """Return in a sentence what has to be given before times can be bounded, or "" where nothing has.

        >>> from reslab.residency import device
        >>> print(device("RTX 5090 D").missing)
        it is not known how fast RTX 5090 D computes; give compute='44 TFLOP/s' with its own figure, or like='...', \
the card that it is like
        """
        lacking = {} if self.matrix_flops_per_s else {f"how fast {self.name} computes": "compute='44 TFLOP/s'"}
        if self.memory_bytes_per_s is None:
            lacking[f"how fast the memory of {self.name} is"] = "bandwidth='288 GB/s'"
        return not_known(lacking)

    def flops_per_s(self, kind: str, dtype: str) -> int | None:
        """Return the throughput of a kind of operation in a type, or None where it is not known.

        >>> from reslab.residency import device
        >>> device("H100").flops_per_s("attention", "bfloat16") / 1e12
        646.0
        """
        by_matrix = self.matrix_flops_per_s.get(dtype)
        return self.attention_flops_per_s.get(dtype, by_matrix) if kind == "attention" else by_matrix

    def table(self) -> pl.DataFrame:
        """Return a row a figure: figure, value (for reading), confidence, source."""
        from reslab.residency._device._device_table import figures

        return figures({each.name: getattr(self, each.name) for each in fields(self)}, self.evidence)

    def __repr__(self) -> str:
        taken = f", {self.free_bytes / 2**30:.1f} free" if self.holders else ""
        unknown = ", rates missing" if self.missing else ""
        return f"DeviceSpec({self.name!r}, {self.kind}, {self.memory_bytes / 2**30:.1f} GiB{taken}{unknown})"

    def _repr_html_(self) -> str:
        from reslab.residency._device._device_table import spec_html

        notes = [f"{each.who} holds {each.nbytes / 2**30:.2f} GiB of it." for each in self.holders]
        notes += ["Host and device share one memory: there is nothing to move."] if self.unified else []
        notes += [f"{self.missing[0].upper()}{self.missing[1:]}."] if self.missing else []
        return spec_html(self.name, self.table(), notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """How fast copies are, in bytes a second: the best of some repeats, of buffers of one size.

    >>> LinkSpeed(device="cuda:0", pinned_bytes_per_s=25_300_000_000, pageable_bytes_per_s=9_100_000_000,
    ...           back_bytes_per_s=26_000_000_000, nbytes=2**28, repeats=5)
    LinkSpeed('cuda:0': to it 25.3 GB/s pinned and 9.1 GB/s pageable, back 26 GB/s)

    Attributes:
        device: What torch calls it.
        pinned_bytes_per_s: To the device from pinned host memory; from pageable where it cannot be pinned.
        pageable_bytes_per_s: To the device from host memory that is not pinned.
        back_bytes_per_s: From the device to pinned host memory.
        nbytes: Bytes of one copy.
        repeats: How often each was timed.
    """

    device: str
    pinned_bytes_per_s: int
    pageable_bytes_per_s: int
    back_bytes_per_s: int
    nbytes: int
    repeats: int

    @property
    def figures(self) -> dict[str, int]:
        """Return the figures of a `DeviceSpec` that it is about."""
        return {
            "link_bytes_per_s": self.pinned_bytes_per_s,
            "link_back_bytes_per_s": self.back_bytes_per_s,
            "link_pageable_bytes_per_s": self.pageable_bytes_per_s,
        }

    @property
    def evidence(self) -> Evidence:
        """Return how it was found."""
        source = f"the best of {self.repeats} copies of {self.nbytes / 2**20:.0f} MiB on this machine's {self.device}"
        return Evidence(confidence=Confidence.TIMED, source=source)

    def __repr__(self) -> str:
        pinned, pageable, back = (
            f"{rate / 1e9:.3g} GB/s"
            for rate in (self.pinned_bytes_per_s, self.pageable_bytes_per_s, self.back_bytes_per_s)
        )
        return f"LinkSpeed({self.device!r}: to it {pinned} pinned and {pageable} pageable, back {back})"
