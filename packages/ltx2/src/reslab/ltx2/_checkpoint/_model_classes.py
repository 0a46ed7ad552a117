"""The classes of an LTX-2 pipeline's components, and the variant that their configurations belong to.

    find_class("LTX2Vocoder")                         # the class, from diffusers or transformers
    library_name(find_class("LTX2Vocoder"))           # 'ltx2', as model_index.json files it
    detect(transformer_config, scheduler_config)      # the variant 'LTX-2.3'

The transformer's flags distinguish LTX-2 from LTX-2.3, and the scheduler marks the distilled variant: it does not shift
its sigmas.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.ltx2 import connectors, latent_upsampler, vocoder
from transformers.utils import logging as transformers_logging

from reslab.ltx2._checkpoint._configs import PERTURBED, class_name, config
from reslab.ltx2._variants import EVERY_VARIANT, Variant, variant

_LIBRARIES = (diffusers, transformers, connectors, vocoder, latent_upsampler)


def find_class(name: str) -> type:
    """Return the class of this name.

    >>> find_class("LTX2VocoderWithBWE").__module__
    'diffusers.pipelines.ltx2.vocoder'

    Raises:
        ValueError: The installed libraries have no such class.
    """
    for library in _LIBRARIES:
        if isinstance(found := getattr(library, name, None), type):
            return found
    raise ValueError(
        f"There is no class {name!r} in diffusers {diffusers.__version__} and transformers {transformers.__version__}; "
        "a newer release of one of them may have it."
    )


def library_name(kind: type) -> str:
    """Return the name under which model_index.json files a class.

    >>> library_name(find_class("AutoencoderKLLTX2Video")), library_name(find_class("LTX2TextConnectors"))
    ('diffusers', 'ltx2')
    """
    if hasattr(diffusers, kind.__name__):
        return "diffusers"
    return "transformers" if kind.__module__.startswith("transformers.") else kind.__module__.split(".")[-2]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars inside a `with` block, since ours names the component."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def detect(transformer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Variant:
    """Return the variant whose flags a transformer's configuration has.

    >>> detect(config("LTX-2", "transformer"), config("LTX-2", "scheduler")).name
    'LTX-2'

    Raises:
        ValueError: No variant has these flags, and the message names those in which the nearest variant differs; or the
            variant cannot be loaded.
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
    """Check that the detected variant is the one that the user asked for and the one in the folder's mark.

    Raises:
        ValueError: One of the two names another variant; the message names both sides.
    """
    for name, side in ((asked, "you asked for"), (marked, "its reslab.json says")):
        if name is not None and variant(name) != found:
            raise ValueError(
                f"The configurations are those of {found.name}, but {side} {variant(name).name}; "
                "leave variant out, or load another checkpoint."
            )


def _differences(each: Variant, transformer: Mapping[str, Any]) -> list[str]:
    """List the flags in which a configuration differs from a variant's; a missing flag has its constructor's default.

    `PERTURBED` is left out: it is no property of the weights, and every transformer is built with it.
    """
    signature = inspect.signature(find_class(class_name(each.name, "transformer")))
    flags = {name: value.default for name, value in signature.parameters.items() if isinstance(value.default, bool)}
    released = flags | config(each.name, "transformer")
    compared = [name for name in flags if name not in PERTURBED]
    return [name for name in compared if transformer.get(name, flags[name]) != released[name]]
