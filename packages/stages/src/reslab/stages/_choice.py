"""One of two stages, picked in each run: text or image, with or without an upscaler.

    image = Choice("image", present=BlockStage(LTX2VaeEncoderStep()), stage_class="ImageEncoding")
    pipeline.add(image)                        # encodes where the request has an image, else does nothing

The parts take the names, renamings and given values of the choice; they are in no pipeline themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from reslab.stages._stage import Binding, Signature, Stage


class Choice(Stage):
    """One of two stages, picked in each run by whether the value `trigger` is given; either may be missing.

    >>> picked = Choice("image", present=Stage(), stage_class="ImageEncoding")
    >>> picked.stage_class
    'ImageEncoding'
    """

    def __init__(
        self, trigger: str, *, present: Stage | None = None, absent: Stage | None = None, stage_class: str | None = None
    ) -> None:
        self.trigger, self.present, self.absent = trigger, present, absent
        self._stage_class = stage_class
        parts = [part for part in (present, absent) if part is not None]
        self.text_settings = tuple(dict.fromkeys(name for part in parts for name in part.text_settings))

    @property
    def stage_class(self) -> str:
        chosen = self.present or self.absent
        return self._stage_class or (chosen.stage_class if chosen is not None else type(self).__name__)

    def signature(self, available: Collection[str] = ()) -> Signature:
        chosen = self.present if self.trigger in available else self.absent
        own = chosen.signature(available) if chosen is not None else Signature(components=(), reads={}, writes=())
        return replace(own, reads={self.trigger: None, **own.reads})

    def check(self, values: Mapping[str, Any], components: Mapping[str, Any]) -> None:
        chosen = self.present if values.get(self.trigger) is not None else self.absent
        if chosen is not None:
            chosen.check(values, components)

    def prepare(self, bind: Binding) -> Callable[[Any], None]:
        trigger = bind.value(self.trigger)
        for part in (self.present, self.absent):
            if part is not None:
                part.set_registered_name(self.registered_name)
        present, absent = (
            s.prepare(bind) if s is not None else (lambda values: None) for s in (self.present, self.absent)
        )

        if self.trigger in bind.given:
            return present if bind.given[self.trigger] is not None else absent

        def call(values: Any) -> None:
            (present if values.get(trigger) is not None else absent)(values)

        return call

    def watched(self) -> tuple[Any, ...]:
        return tuple(loop for part in (self.present, self.absent) if part is not None for loop in part.watched())
