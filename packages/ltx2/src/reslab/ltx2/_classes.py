"""Where the classes of an LTX-2 pipeline's components live: diffusers, transformers, or diffusers' LTX-2 modules.

find_class("LTX2Vocoder")                     # the class
library_name(find_class("LTX2Vocoder"))       # 'ltx2', as model_index.json files it
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers
from diffusers.pipelines.ltx2 import connectors, latent_upsampler, vocoder
from transformers.utils import logging as transformers_logging

_LIBRARIES = (diffusers, transformers, connectors, vocoder, latent_upsampler)


def find_class(name: str) -> type:
    """Return the class of this name.

    >>> find_class("LTX2VocoderWithBWE").__module__
    'diffusers.pipelines.ltx2.vocoder'

    A ValueError says that the installed libraries do not have it.
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
    """Hide transformers' own progress bars for a while: ours names the component."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
