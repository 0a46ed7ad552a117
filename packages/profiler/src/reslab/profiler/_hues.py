"""One colour a component, the same in every chart.

The components that diffusion pipelines usually have keep their hue whatever else there is; others take what is left,
in the order in which they are met. Vermilion is for errors and stalls and grey for what has no component, so six hues
remain: a seventh component is grey, and its label says what it is.

    component_hues(["transformer", "vae"])      # {"transformer": "#0072B2", "vae": "#009E73"}
"""

from __future__ import annotations

from collections.abc import Iterable

from reslab.profiler._vega import PALETTE

#: What most pipelines of diffusers call their large components; where two want one hue, the first has it.
FIXED = {
    "transformer": "blue",
    "unet": "blue",
    "transformer+lora": "sky",
    "text_encoder": "orange",
    "vae": "green",
    "audio_vae": "purple",
    "vocoder": "sky",
    "connectors": "yellow",
}
STALL_COLOR, OTHER_COLOR = PALETTE["vermilion"], PALETTE["grey"]

_SPARE = ("blue", "orange", "green", "purple", "sky", "yellow")


def component_hues(components: Iterable[str]) -> dict[str, str]:
    """Return a colour for each component.

    >>> list(component_hues(["vae", "upsampler", "transformer"]).values())
    ['#009E73', '#E69F00', '#0072B2']

    Args:
        components: Their names, in an order that does not change.
    """
    names = list(dict.fromkeys(components))
    fixed: dict[str, str] = {}
    for name, hue in FIXED.items():
        if name in names and hue not in fixed.values():
            fixed[name] = hue
    spare = (hue for hue in _SPARE if hue not in fixed.values())
    return {name: PALETTE[fixed.get(name) or next(spare, "grey")] for name in names}
