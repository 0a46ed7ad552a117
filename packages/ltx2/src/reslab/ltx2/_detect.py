"""Tell the variant of a checkpoint from its configurations.

The transformer's flags tell LTX-2 from LTX-2.3, the scheduler tells the distilled one: its sigmas are used as they are.

    detect(transformer_config, scheduler_config)      # 'LTX-2.3'
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from reslab.ltx2._classes import find_class
from reslab.ltx2._configs import PERTURBED, class_name, config
from reslab.ltx2._variants import EVERY_VARIANT, Variant, variant


def detect(transformer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Variant:
    """Return the variant whose flags a transformer has.

    >>> detect(config("LTX-2", "transformer"), config("LTX-2", "scheduler")).name
    'LTX-2'

    A ValueError names the flags in which it differs from the nearest variant, or says why that cannot be loaded.
    """
    distilled = not scheduler.get("use_dynamic_shifting", False)
    differences = {each: _differences(each, transformer) for each in EVERY_VARIANT}
    fitting = [each for each, found in differences.items() if not found]
    if not fitting:
        nearest = min(differences, key=lambda each: len(differences[each]))
        found = ", ".join(f"{flag}={transformer.get(flag)}" for flag in differences[nearest])
        raise ValueError(f"This transformer is of no variant that is known here: {nearest.name} has not {found}.")
    chosen = next((each for each in fitting if each.is_distilled == distilled), fitting[0])
    chosen.require_weights()
    return chosen


def check_variant(found: Variant, *, asked: str | None, marked: str | None) -> None:
    """Check that the variant found in the configurations is the one asked for, and the one the folder is marked as.

    A ValueError names both sides of a contradiction.
    """
    for name, side in ((asked, "you asked for"), (marked, "its reslab.json says")):
        if name is not None and variant(name) != found:
            raise ValueError(
                f"The configurations are those of {found.name}, but {side} {variant(name).name}; "
                "leave variant out, or load another checkpoint."
            )


def _differences(each: Variant, transformer: Mapping[str, Any]) -> list[str]:
    """List the flags in which a configuration differs; one that it does not name has its constructor's default.

    How guidance perturbs is no flag of the weights: every transformer is built alike in that.
    """
    signature = inspect.signature(find_class(class_name(each.name, "transformer")))
    flags = {name: value.default for name, value in signature.parameters.items() if isinstance(value.default, bool)}
    released = flags | config(each.name, "transformer")
    told = [name for name in flags if name not in PERTURBED]
    return [name for name in told if transformer.get(name, flags[name]) != released[name]]
