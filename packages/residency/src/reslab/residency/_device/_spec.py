"""The description of a device: its memory, rates and host, each figure with its source and confidence.

    card = device("RTX 4090")
    card.memory_bytes, card.link_bytes_per_s, card.matrix_flops_per_s["bfloat16"]
    card                                     # in a notebook: a table of figures, confidence and source

A rate is measured where a measurement is published, else the vendor's figure, else derived from units and clock; the
table says which. A rate without a source is missing, and `missing` says what to give before times can be bounded. Free
memory is less than total memory even on an idle card, since the driver's context takes a part.

`LinkSpeed` holds measured copy rates, which replace those of the catalogue. It needs no torch, so a link that was
measured on one machine can be described on another.

    link = measure_link("cuda:0")                            # `_calibrate/_link` measures it
    detect("cuda:0", link=link)                              # this machine with its measured link
    device("mine", like="RTX 4090", link=link)               # another card with that link
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from reslab.residency._device._evidence import Confidence, Evidence, Holder
from reslab.stages.support import FrozenDict, freeze

if TYPE_CHECKING:
    import polars as pl


#: Memory of a CUDA context with torch's kernels on an idle card: assumed, from 0.4 to 0.6 GiB seen on such cards.
CONTEXT_BYTES = 2**29


def not_known(lacking: Mapping[str, str]) -> str:
    """Return a sentence that says which figures of a device are missing and how to give them; "" if none is.

    Args:
        lacking: By missing figure, the argument that gives it.
    """
    if not lacking:
        return ""
    arguments = " and ".join(dict.fromkeys(lacking.values()))
    figures = "its own figure" if len(set(lacking.values())) == 1 else "its own figures"
    return (
        f"no {' and no '.join(lacking)} is known; give {arguments} with {figures}, or the name of a similar card as "
        "like='...'"
    )


class DeviceError(ValueError):
    """A device does not exist, or cannot be described."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """One device and the host that it sits in; `device` and `detect` make one.

    Args:
        name: The device's name.
        kind: The device's type in torch: "cuda" (AMD's too), "xpu", "mps" or "cpu".
        memory_bytes: Total memory.
        free_bytes: Memory that a pipeline may use.
        memory_bytes_per_s: Bandwidth of the device's memory; None if it is not known.
        matrix_flops_per_s: Throughput of matrix products and convolutions, by torch's name of the type; unknown types
            are missing.
        attention_flops_per_s: Throughput of attention; a missing type has the throughput of matrix products.
        host_ns_per_operation: Time in which the host issues one operation, in nanoseconds.
        link_bytes_per_s: Rate of copies from pinned host memory to the device.
        link_back_bytes_per_s: Rate of copies from the device to pinned host memory.
        link_pageable_bytes_per_s: Rate of copies from pageable host memory to the device.
        disk_bytes_per_s: Rate of sequential reads from disk.
        host_memory_bytes: Host memory that a plan may use; for this machine the available memory, less a reserve.
        pinnable_bytes: Host memory that can be pinned.
        unified: Whether host and device share one memory, so that no weight has to move.
        evidence: Source and confidence of each figure, by the figure's name.
        holders: Processes that hold memory of the device, from `detect`.
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
        """Return a sentence that says which figures to give before times can be bounded, or "".

        >>> from reslab.residency import device
        >>> print(device("RTX 5090 D").missing)
        no throughput of RTX 5090 D is known; give compute='44 TFLOP/s' with its own figure, or the name of a similar \
card as like='...'
        """
        lacking = {} if self.matrix_flops_per_s else {f"throughput of {self.name}": "compute='44 TFLOP/s'"}
        if self.memory_bytes_per_s is None:
            lacking[f"memory bandwidth of {self.name}"] = "bandwidth='288 GB/s'"
        return not_known(lacking)

    def flops_per_s(self, kind: str, dtype: str) -> int | None:
        """Return the throughput of a kind of operation in a type, or None if it is not known.

        >>> from reslab.residency import device
        >>> device("H100").flops_per_s("attention", "bfloat16") / 1e12
        646.0
        """
        by_matrix = self.matrix_flops_per_s.get(dtype)
        return self.attention_flops_per_s.get(dtype, by_matrix) if kind == "attention" else by_matrix

    def table(self) -> pl.DataFrame:
        """Return a row a figure: figure, value (as text with its unit), confidence, source."""
        from reslab.residency._device._device_table import figures

        return figures({each.name: getattr(self, each.name) for each in fields(self)}, self.evidence)

    def __repr__(self) -> str:
        taken = f", {self.free_bytes / 2**30:.1f} free" if self.holders else ""
        unknown = ", rates missing" if self.missing else ""
        return f"DeviceSpec({self.name!r}, {self.kind}, {self.memory_bytes / 2**30:.1f} GiB{taken}{unknown})"

    def _repr_html_(self) -> str:
        from reslab.residency._device._device_table import spec_html

        notes = [f"{each.who} holds {each.nbytes / 2**30:.2f} GiB of it." for each in self.holders]
        notes += ["Host and device share one memory, so no weight has to move."] if self.unified else []
        notes += [f"{self.missing[0].upper()}{self.missing[1:]}."] if self.missing else []
        return spec_html(self.name, self.table(), notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """Measured copy rates, in bytes a second: the best of several copies of one size.

    >>> LinkSpeed(device="cuda:0", pinned_bytes_per_s=25_300_000_000, pageable_bytes_per_s=9_100_000_000,
    ...           back_bytes_per_s=26_000_000_000, nbytes=2**28, repeats=5)
    LinkSpeed('cuda:0': 25.3 GB/s pinned, 9.1 GB/s pageable, 26 GB/s back)

    Attributes:
        device: The device's name in torch.
        pinned_bytes_per_s: Rate from pinned host memory to the device; from pageable memory where none can be pinned.
        pageable_bytes_per_s: Rate from pageable host memory to the device.
        back_bytes_per_s: Rate from the device to pinned host memory.
        nbytes: Bytes of one copy.
        repeats: Number of copies of each kind.
    """

    device: str
    pinned_bytes_per_s: int
    pageable_bytes_per_s: int
    back_bytes_per_s: int
    nbytes: int
    repeats: int

    @property
    def figures(self) -> dict[str, int]:
        """Return the measured rates by the fields of `DeviceSpec` that they replace."""
        return {
            "link_bytes_per_s": self.pinned_bytes_per_s,
            "link_back_bytes_per_s": self.back_bytes_per_s,
            "link_pageable_bytes_per_s": self.pageable_bytes_per_s,
        }

    @property
    def evidence(self) -> Evidence:
        """Return source and confidence of the measured rates."""
        source = f"the best of {self.repeats} copies of {self.nbytes / 2**20:.0f} MiB on this machine's {self.device}"
        return Evidence(confidence=Confidence.TIMED, source=source)

    def __repr__(self) -> str:
        pinned, pageable, back = (
            f"{rate / 1e9:.3g} GB/s"
            for rate in (self.pinned_bytes_per_s, self.pageable_bytes_per_s, self.back_bytes_per_s)
        )
        return f"LinkSpeed({self.device!r}: {pinned} pinned, {pageable} pageable, {back} back)"
