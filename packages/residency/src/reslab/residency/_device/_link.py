"""How fast copies between host and device are, as somebody timed them: what stands in for a catalogue's link.

    link = measure_link("cuda:0")                            # `_calibrate/_link` times it
    detect("cuda:0", link=link)                              # this machine, with its own link
    device("mine", like="RTX 4090", link=link)               # a card that the catalogue does not know

The data is here and needs no torch, so a link that was measured once can be described anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from reslab.residency._device._evidence import Confidence, Evidence


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
