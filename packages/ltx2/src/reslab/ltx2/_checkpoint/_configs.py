"""The released layer sizes, read from one JSON file that ships with the package.

The constructors' defaults of diffusers are not the released configurations (`rope_type` is "split" in the release,
for one), so they are kept as data, with their source: `configs/ltx2.json`.

    config("LTX-2.3", "transformer")["num_layers"]     # 48
    class_name("LTX-2", "vocoder")                     # 'LTX2Vocoder'

Where the classes of an LTX-2 pipeline's components live: diffusers, transformers, or diffusers' LTX-2 modules.

find_class("LTX2Vocoder")                     # the class
library_name(find_class("LTX2Vocoder"))       # 'ltx2', as model_index.json files it

Tell the variant of a checkpoint from its configurations.

The transformer's flags tell LTX-2 from LTX-2.3, the scheduler tells the distilled one: its sigmas are used as they are.

    detect(transformer_config, scheduler_config)      # 'LTX-2.3'
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.ltx2 import connectors, latent_upsampler, vocoder
from transformers.utils import logging as transformers_logging

from reslab.ltx2._variants import EVERY_VARIANT, Variant, variant

# In the order a pipeline uses them; the tokenizer has no configuration of ours. LTX-2.5 has one more.
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

#: How every transformer is built, whatever its published configuration says. Lightricks' transformer skips the self-
#: attention of the blocks that spatio-temporal guidance perturbs; diffusers' does so only with this flag, which
#: LTX-2's published configuration leaves off, and the pass then costs a forward and changes nothing. No weight
#: depends on it, and without that guidance no result.
PERTURBED = {"perturbed_attn": True}


@cache
def _file() -> dict[str, Any]:
    return json.loads(resources.files("reslab.ltx2").joinpath("configs/ltx2.json").read_text(encoding="utf-8"))


def config_source() -> str:
    """Return where the configurations were taken from: repository, script and commit."""
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
    """Return the released constructor arguments of one component, as a fresh dictionary.

    >>> config("LTX-2", "vae")["latent_channels"], config("LTX-2.3 distilled", "scheduler")["use_dynamic_shifting"]
    (128, False)

    A ValueError names the components there are.
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
