"""The help of a plan: the grammar of its settings, the four places, every choice, and the words of the field.

    help(residency.Plan)            # shows it
    print(plan_help())

`docs/glossary.py` writes the same text to `docs/glossary.md`. Lists are made from the enums and `FIELDS`, so that they
cannot drift from what `_settings` reads. The text is Markdown that reads well as plain text too.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from reslab.residency._plan._numerics import NUMERICS, Lora, Numerics
from reslab.residency._plan._placement import COUNTED, DEFAULTS, FIELDS, Place
from reslab.residency._plan._settings import COMPONENT_FIELDS, PLACEMENT
from reslab.stages.support import Described

#: What each setting of a place does that is a count or a yes or no; a choice has the sentence of its enum.
_SENTENCES = {
    "resident": "Blocks that stay on the device.",
    "prefetch": "Blocks fetched ahead of the one that computes; there is one slot more than that.",
    "prefetch_stages": "Stages ahead of its own in which a component is fetched, counting only stages that call one.",
    "copy_back": "Whether evicted weights are copied to the host; it only describes other tools.",
}

#: The words of the field as they are used in code, messages and documents, each with its meaning.
WORDS: Mapping[str, str] = {
    "argument": "A value that a caller passes to a function.",
    "block": "One of the equal layers that a component repeats, such as one of a transformer's 48; weights outside the "
    "blocks are counted apart.",
    "component": "A named part of a pipeline, such as the transformer or the VAE.",
    "decode": "To turn latents into pictures or sound with the VAE.",
    "denoise": "To take noise out of latents, step by step, with the transformer.",
    "device": "The card that computes, with its own memory.",
    "disk": "The place of a component whose blocks stream from files through a window of host memory.",
    "evict": "To free the device memory of weights; parameters then point to the host copy again.",
    "fetch": "To copy weights to the device.",
    "H2D": "Host to device: the direction in which weights are fetched over the link.",
    "host": "The computer around the device: its processor and its memory.",
    "latent": "The compressed form of pictures or sound that the transformer works on.",
    "layerwise": "The place of a component whose blocks stream from host memory through slots.",
    "pass": "One evaluation of the transformer within a step; guidance needs several.",
    "peak": "The most bytes that are in use at one time.",
    "pinned": "Locked in host memory, so that the device can copy from it while it computes.",
    "placement": "Where the weights of one component live: one of the four places with its settings.",
    "pool": "Device memory that torch's allocator keeps for reuse after tensors have been released.",
    "prefetch": "To fetch weights before the computation that needs them.",
    "refine": "To denoise again at a higher resolution, after upsampling.",
    "release": "To give memory back to the pool or to the system.",
    "resident": "On the device all the time: a whole component, or some of its blocks.",
    "schedule": "The order of all moves of a run, made before it; moves in it are scheduled.",
    "slot": "Device memory for one streaming block, given to the next block when its turn comes.",
    "stage": "One named part of a pipeline's run, such as encoding the prompt or denoising.",
    "step": "One iteration of denoising.",
    "swap": "The place of a component that is on the device as a whole for its stages, and on the host otherwise.",
    "user": "Whoever calls the packages; settings of the user are never changed.",
}


def plan_help() -> str:
    """Return the help of a plan as text.

    >>> print(*plan_help().splitlines()[:4], sep="\\n")
    Settings of a plan
    ------------------
    <BLANKLINE>
    A plan takes its settings by keyword, in a mapping or as JSON, under the same names:
    """
    sections = (
        ("Settings of a plan", _grammar()),
        ("Places", _places()),
        ("Settings of a place", _place_settings()),
        ("Choices that change bits", _numerics()),
        ("Words", (f"- {word}: {sentence}" for word, sentence in WORDS.items())),
    )
    return "\n\n".join("\n".join((title, "-" * len(title), "", *map(_wrapped, lines))) for title, lines in sections)


def _wrapped(line: str) -> str:
    """Break a line for terminals; a list item continues under its own text."""
    text = line.lstrip()
    indent = " " * (len(line) - len(text))
    hanging = indent + "  " * text.startswith("- ")
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)


def members(kind: Iterable[Described], indent: str = "") -> Iterator[str]:
    """Yield one line per member of an enum, with its sentence."""
    for member in kind:
        yield f'{indent}- "{member}": {member.doc}'


def first_line(kind: type) -> str:
    """Return the first line of a class's docstring; empty if Python runs without docstrings."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _grammar() -> Iterator[str]:
    yield "A plan takes its settings by keyword, in a mapping or as JSON, under the same names:"
    yield ""
    yield f"- `transformer`: where a component lives, {_choices(Place)}."
    yield "- `transformer.prefetch`: a setting of that place, for all stages."
    yield "- `transformer@LTX2RefinementStage`: where the component lives in one stage alone."
    yield "- `transformer@LTX2RefinementStage.prefetch`: a setting for one stage alone."
    yield f"- `lora`: {_choices(Lora)}."
    yield f"- `numerics.vae_tiling`: {_choices(NUMERICS['vae_tiling'])}; other choices that change bits likewise."
    yield ""
    yield (
        'A mapping may be nested: `{"transformer": {"placement": "layerwise", "resident": 30}}`. A component without a '
        "setting is resident. A setting for one stage goes before the one for all stages; a stage with a place of its "
        "own shares no setting with the other stages. A setting that only some places have implies the simplest of "
        "these places."
    )


def _places() -> Iterator[str]:
    for place in Place:
        own = ", ".join(f"`{name}`" for name in FIELDS[place])
        yield f'- "{place}": {place.doc} ' + (f"Settings: {own}." if own else "It has no settings.")


def _place_settings() -> Iterator[str]:
    for name, kind in COMPONENT_FIELDS.items():
        if name != PLACEMENT:
            yield from _setting(name, kind, DEFAULTS[name])


def _numerics() -> Iterator[str]:
    yield from _setting("lora", Lora, Lora.DYNAMIC)
    for name, kind in NUMERICS.items():
        yield from _setting(f"numerics.{name}", kind, getattr(Numerics(), name))


def _setting(name: str, kind: Any, default: Any) -> Iterator[str]:
    if issubclass(kind, StrEnum):
        yield f'- `{name}`, by default "{default}": {first_line(kind)}'
        yield from members(kind, "  ")
    else:
        count = f"a number of {COUNTED[name]}" if name in COUNTED else "true or false"
        yield f"- `{name}`, {count}, by default {str(default).lower()}: {_SENTENCES[name]}"


def _choices(kind: Iterable[Described]) -> str:
    *others, last = (f'"{member}"' for member in kind)
    return f"{', '.join(others)} or {last}"
