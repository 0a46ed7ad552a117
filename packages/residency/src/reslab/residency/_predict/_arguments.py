"""Arguments that are rehearsals or devices, checked: one or several, a card or its name.

    one_device("RTX 4090", "bounds")
    many_devices(["RTX 4090", device("H100")], "a survey")

Every verb that takes rehearsals or devices reads them here, so an argument of another type is the same error anywhere.
`what` names the verb in that error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reslab.residency._device._catalogue import device
from reslab.residency._device._spec import DeviceError, DeviceSpec
from reslab.residency._rehearse._failures import RehearsalError
from reslab.residency._rehearse._rehearsal import Rehearsal

Rehearsals = Rehearsal | Mapping[str, Rehearsal] | Sequence[Rehearsal]
Devices = DeviceSpec | str | Sequence[DeviceSpec | str]

_DEVICE = 'device("RTX 4090"), or a name of devices()'
_REHEARSAL = "a Rehearsal, from rehearse or ltx2.rehearsal"


def one_rehearsal(given: Any, what: str) -> Rehearsal:
    """Return the argument if it is one rehearsal.

    >>> one_rehearsal("LTX-2.3", "bounds")
    Traceback (most recent call last):
    reslab.residency._rehearse._failures.RehearsalError: bounds take a Rehearsal, from rehearse or ltx2.rehearsal, got \
'LTX-2.3'

    Raises:
        RehearsalError: The argument is anything else.
    """
    if isinstance(given, Rehearsal):
        return given
    if _is_many(given) and len(given) and all(isinstance(each, Rehearsal) for each in _values(given)):
        raise RehearsalError(f"{what} take one rehearsal, got {len(given)}; ask for each of them")
    raise RehearsalError(f"{what} take {_REHEARSAL}, got {_short(given)}")


def many_rehearsals(given: Any, what: str) -> dict[str, Rehearsal]:
    """Return rehearsals by label: the given label, else the requested size.

    Where two have the same size, the labels name their pipelines too.

    Raises:
        RehearsalError: One of them is anything else.
    """
    if isinstance(given, Rehearsal):
        given = [given]
    if not _is_many(given):
        raise RehearsalError(f"{what} takes one rehearsal or several, each {_REHEARSAL}; got {_short(given)}")
    for each in _values(given):
        if not isinstance(each, Rehearsal):
            raise RehearsalError(f"{what} takes rehearsals, each {_REHEARSAL}; got {_short(each)} among them")
    if isinstance(given, Mapping):
        return {str(label): each for label, each in given.items()}
    return dict(zip(_labels(list(given)), given, strict=True))


def one_device(given: Any, what: str) -> DeviceSpec:
    """Return the device that the argument is, or names.

    >>> one_device("rtx 4090", "bounds")
    DeviceSpec('RTX 4090', cuda, 23.5 GiB)

    Raises:
        DeviceError: There is no device of that name, the argument has several devices, or it is anything else.
    """
    if isinstance(given, DeviceSpec):
        return given
    if isinstance(given, str):
        return device(given)
    if _is_many(given) and len(given) > 1:
        raise DeviceError(
            f"{what} take one device, got {len(given)}; ask for each of them, since no plan spreads over several"
        )
    raise DeviceError(f"{what} take {_DEVICE}, got {_short(given)}")


def many_devices(given: Any, what: str) -> list[DeviceSpec]:
    """Return the devices that the argument is, or names: one or several.

    Raises:
        DeviceError: There is no device of a name, or one of them is anything else.
    """
    if isinstance(given, (DeviceSpec, str)):
        given = [given]
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
        raise DeviceError(f"{what} takes one device or several, each {_DEVICE}; got {_short(given)}")
    found = list(given)
    for each in found:
        if not isinstance(each, (DeviceSpec, str)):
            raise DeviceError(f"{what} takes devices, each {_DEVICE}; got {_short(each)} among them")
    return [device(each) if isinstance(each, str) else each for each in found]


def size_label(rehearsal: Rehearsal) -> str:
    """Return the requested size of a rehearsal, such as "1536×1024×121"."""
    request = rehearsal.meta.get("request", {})
    axes = [str(request[name]) for name in ("width", "height", "num_frames") if name in request]
    return "×".join(axes) or str(rehearsal.meta.get("pipeline", "run"))


def _labels(rehearsals: list[Rehearsal]) -> list[str]:
    """Return a label each: the size, after the pipeline where sizes repeat, with a number where both repeat."""
    sizes = list(map(size_label, rehearsals))
    named = [
        size if sizes.count(size) == 1 else f"{each.meta.get('pipeline', 'run')}, {size}"
        for size, each in zip(sizes, rehearsals, strict=True)
    ]
    return [
        name if named.count(name) == 1 else f"{name} ({1 + named[:place].count(name)})"
        for place, name in enumerate(named)
    ]


def _is_many(given: Any) -> bool:
    return isinstance(given, (Mapping, Sequence)) and not isinstance(given, (str, bytes))


def _values(given: Any) -> list[Any]:
    return list(given.values() if isinstance(given, Mapping) else given)


def _short(given: Any) -> str:
    text = repr(given) if isinstance(given, (str, int, float, type(None))) else f"a {type(given).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
