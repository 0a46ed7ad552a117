"""Decisions: what a plan consists of, each with who made it and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reslab.residency._plan._keys import Key
from reslab.stages import Described


class DecidedBy(Described):
    """Who decides."""

    USER = "user", "You set it, so nothing changes it."
    DEVICE_MODE = "device mode", "A device mode of the model decided it."
    RULE = "rule", "A rule or a preset decided it."
    TUNER = "tuner", "It was found by search."


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One setting of a plan: its value, who decided, and why in a sentence."""

    key: Key
    value: Any
    by: DecidedBy
    why: str

    @property
    def text(self) -> str:
        """Return the value as it is written."""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)

    def __str__(self) -> str:
        return f"{self.key}={self.text!r} ({self.by}: {self.why})"
