"""The role of a component's call: encoding, denoising, upscaling or decoding, judged by its method and signature.

A component that takes a timestep is a denoiser. The role of any other follows from its method (`vae.encode`,
`vae.decode`), then from its usual name in diffusers. A component known by neither has a role of its own, its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reslab.stages._described import Described


class Role(Described):
    """The role of the calls in one stage of a stock pipeline.

    >>> Role("upscale").doc
    'Latents or pictures become larger.'
    """

    ENCODE = "encode", "Text, pictures and sound become what the denoiser reads."
    DENOISE = "denoise", "A denoiser is called step by step."
    UPSCALE = "upscale", "Latents or pictures become larger."
    DECODE = "decode", "Latents become pictures and sound."


#: Parts of the names of components, in the order of looking.
_NAMED = {
    Role.UPSCALE: ("upsampler", "upscaler"),
    Role.ENCODE: (
        "encoder", "embed", "proj", "connector", "condition", "prompt", "qformer", "siglip", "adapter", "estimator",
        "language", "duration", "bert", "image_normalizer",
    ),
    Role.DECODE: ("decoder", "vocoder", "vae", "movq", "vqgan"),
    Role.DENOISE: ("transformer", "unet", "prior", "controlnet", "denoiser"),
}  # fmt: skip


def role_of(name: str, component: Any, method: str) -> str:
    """Return the role of one method of a component: a `Role`, or the component's name.

    >>> role_of("vae", object(), "encode").value, role_of("safety_checker", object(), "forward")
    ('encode', 'safety_checker')

    Args:
        name: The component's name in the pipeline.
        component: The component.
        method: "forward", "encode" or "decode".
    """
    if method != "forward":
        return Role(method)
    if timestep_names(component):
        return Role.DENOISE
    named = next((role for role, parts in _NAMED.items() if any(part in name for part in parts)), None)
    if named is None and type(component).__module__.startswith("transformers."):
        return Role.ENCODE
    return named or name


def is_module(component: Any) -> bool:
    """Tell whether a component has weights, judged without importing torch."""
    return hasattr(component, "named_parameters") and hasattr(component, "forward")


def timestep_names(component: Any) -> tuple[str, ...]:
    """Return the parameters of a component's forward that are timesteps."""
    try:
        parameters = inspect.signature(getattr(component, "_orig_mod", component).forward).parameters
    except (AttributeError, TypeError, ValueError):
        return ()
    return tuple(name for name in parameters if "timestep" in name or name in ("t", "sigma"))


def timestep_reader(component: Any) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Any]:
    """Return a function that finds the timestep among the arguments of a denoiser's call, or None."""
    names = timestep_names(component)
    forward = getattr(component, "_orig_mod", component).forward
    places = list(inspect.signature(forward).parameters) if names else []
    place = places.index(names[0]) if names else 0

    def read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not names:
            return None
        return kwargs[names[0]] if names[0] in kwargs else (args[place] if place < len(args) else None)

    return read


def numbers(timestep: Any, *, whatever_device: bool) -> frozenset[float] | None:
    """Return the set of numbers in a timestep: a batch repeats one number.

    Return None if the numbers are unknown or too many, or if reading them would wait for a device.

    >>> numbers(250.0, whatever_device=False)
    frozenset({250.0})

    Args:
        timestep: A number or a tensor.
        whatever_device: Whether to read it even if that waits for an accelerator.
    """
    if timestep is None:
        return None
    if isinstance(timestep, (int, float)):
        return frozenset({timestep})
    kind = getattr(getattr(timestep, "device", None), "type", "cpu")
    if (kind != "cpu" and not whatever_device) or getattr(timestep, "numel", lambda: 99)() > 64:
        return None
    try:
        return frozenset(_flat(timestep.tolist()))
    except (RuntimeError, ValueError, NotImplementedError):  # on meta, or computed in a rehearsal
        return None


def _flat(values: Any) -> Iterator[float]:
    if not isinstance(values, list):
        yield values
        return
    for value in values:
        yield from _flat(value)
