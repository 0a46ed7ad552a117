"""Where a figure of a device comes from and how far it can be trusted, and who holds some of its memory."""

from __future__ import annotations

from dataclasses import dataclass

from reslab.stages.support import Described


class Confidence(Described):
    """How far a figure can be trusted.

    >>> Confidence("derived").doc
    'Computed from units, clock and operations a clock: a peak, which sustained rates stay below.'
    """

    MEASURED = "measured", "Measured on this device and published."
    VENDOR = "vendor", "The vendor's datasheet or whitepaper says so."
    PUBLISHED = "published", "A public table says so; the vendor's own sheet was not at hand."
    DERIVED = "derived", "Computed from units, clock and operations a clock: a peak, which sustained rates stay below."
    ASSUMED = "assumed", "Neither measured nor promised for this device: taken from another, as the row says."
    DETECTED = "detected", "Read from this machine."
    TIMED = "timed", "Timed on this machine."
    GIVEN = "given", "You said so."
    UNKNOWN = "unknown", "No source has it: give it, or name a device that this one is like."


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Where a figure comes from."""

    confidence: Confidence
    source: str


#: Of a figure that no source has.
NOWHERE = Evidence(confidence=Confidence.UNKNOWN, source="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds memory of a device, as far as the driver tells."""

    who: str
    nbytes: int
