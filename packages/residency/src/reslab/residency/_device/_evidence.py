"""The source of a device's figure and how far to trust it, and the processes that hold its memory."""

from __future__ import annotations

from dataclasses import dataclass

from reslab.stages.support import Described


class Confidence(Described):
    """How far to trust a figure.

    >>> Confidence("derived").doc
    'Computed from units, clock and operations a clock: a peak, which sustained rates stay below.'
    """

    MEASURED = "measured", "Measured on this device and published."
    VENDOR = "vendor", "From the vendor's datasheet or whitepaper."
    PUBLISHED = "published", "From a public table; the vendor's own sheet was not available."
    DERIVED = "derived", "Computed from units, clock and operations a clock: a peak, which sustained rates stay below."
    ASSUMED = "assumed", "Neither measured nor published for this device; the row says what it is taken from."
    DETECTED = "detected", "Read from this machine."
    TIMED = "timed", "Timed on this machine."
    GIVEN = "given", "Given by the user."
    UNKNOWN = "unknown", "No source has it; give it, or name a similar device with like=."


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The source of a figure, and how far to trust it."""

    confidence: Confidence
    source: str


#: The evidence of a figure without a source.
NOWHERE = Evidence(confidence=Confidence.UNKNOWN, source="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A holder of device memory, as the driver reports it."""

    who: str
    nbytes: int
