"""The released layer sizes, read from one JSON file that ships with the package.

diffusers' constructor defaults are not the released configurations: `rope_type` is "split" in the release, for one. So
`configs/ltx2.json` keeps the released values and their source.

    config("LTX-2.3", "transformer")["num_layers"]     # 48
    class_name("LTX-2", "vocoder")                     # 'LTX2Vocoder'

The file needs no torch: the rules for sizes read the configurations before a model is built. `_model_classes` finds
the classes that the names stand for.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from importlib import resources
from typing import Any

from reslab.ltx2._variants import variant

# In the order in which a pipeline uses them. The tokenizer has no configuration here; LTX-2.5 has one more component.
COMPONENTS = (
    "tokenizer",
    "text_encoder",
    "connectors",
    "scheduler",
    "transformer",
    "vae",
    "audio_vae",
    "vocoder",
    "latent_upsampler",
)

# scheduler/scheduler_config.json of diffusers/LTX-2.3-Distilled-Diffusers at 432e0d3: its eight sigmas are used as they
# are. Every other component there is configured as LTX-2.3's.
_DISTILLED_SCHEDULER = {"use_dynamic_shifting": False, "shift_terminal": None}

#: Set for every transformer, whatever its published configuration says. Lightricks' transformer skips self-attention
#: in the blocks that spatio-temporal guidance perturbs; diffusers' does so only with this flag. LTX-2's published
#: configuration leaves it off, so that the guidance pass would cost a forward and change nothing. No weight depends on
#: the flag, nor any result without that guidance.
PERTURBED = {"perturbed_attn": True}


@cache
def _file() -> dict[str, Any]:
    return json.loads(resources.files("reslab.ltx2").joinpath("configs/ltx2.json").read_text(encoding="utf-8"))


def config_source() -> str:
    """Return the source of the configurations: repository, script and commit."""
    return _file()["source"]


def _entry(variant_name: str, component: str) -> dict[str, Any]:
    chosen = variant(variant_name)
    entries = _file()["variants"][chosen.name.removesuffix(" distilled")]
    if component not in entries:
        raise ValueError(f"{chosen.name} has no configuration for {component!r}; it has {', '.join(sorted(entries))}.")
    entry = copy.deepcopy(entries[component])
    if component == "transformer":
        return entry | PERTURBED
    return entry | _DISTILLED_SCHEDULER if chosen.is_distilled and component == "scheduler" else entry


def config(variant_name: str, component: str) -> dict[str, Any]:
    """Return a copy of the released constructor arguments of one component.

    >>> config("LTX-2", "vae")["latent_channels"], config("LTX-2.3 distilled", "scheduler")["use_dynamic_shifting"]
    (128, False)

    Raises:
        ValueError: The variant has no such component; the message names its components.
    """
    return {key: value for key, value in _entry(variant_name, component).items() if key != "class"}


def components(variant_name: str) -> tuple[str, ...]:
    """Name the components of a variant, in the order a pipeline uses them.

    >>> components("LTX-2") == COMPONENTS, components("LTX-2.5")[6]
    (True, 'diffusion_decoder')
    """
    own = _file()["variants"][variant(variant_name).name.removesuffix(" distilled")]
    place = COMPONENTS.index("vae") + 1
    return (*COMPONENTS[:place], *(name for name in own if name not in COMPONENTS), *COMPONENTS[place:])


def class_name(variant_name: str, component: str) -> str:
    """Return the name of the component's class in diffusers or transformers.

    >>> class_name("LTX-2.3", "vocoder")
    'LTX2VocoderWithBWE'
    """
    return _entry(variant_name, component)["class"]
