"""Which files hold the weights of a component: one, or the shards of an index, perhaps of one precision.

diffusers and transformers name files alike: `<stem>.safetensors`, or `<stem>.safetensors.index.json` with shards
beside it; saved with `variant="bf16"`, `<stem>.bf16.safetensors` and `<stem>.safetensors.index.bf16.json`. Files
without a precision come first; where there is one precision alone, it is loaded. An index names plain files of its own
folder and nothing else: it comes from a stranger, and what it names is opened.

    choose("vae", ["diffusion_pytorch_model.bf16.safetensors"])   # Choice('diffusion_pytorch_model.bf16…', 'bf16')
    shard_names("vae", folder / "diffusion_pytorch_model.safetensors.index.json")
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from reslab.ltx2._files import read_json


class Choice(NamedTuple):
    """Name the file to begin with, a safetensors file or an index, and the precision in its name."""

    name: str
    precision: str | None

    @property
    def is_index(self) -> bool:
        """Tell whether the file names others."""
        return self.name.endswith(".json")


def weight_stem(component: str) -> str:
    """Return how the weight files of a component are named: as its own library does, whatever else lies there.

    >>> weight_stem("text_encoder"), weight_stem("vae")
    ('model', 'diffusion_pytorch_model')
    """
    return "model" if component == "text_encoder" else "diffusion_pytorch_model"


def choose(component: str, names: Iterable[str]) -> Choice | None:
    """Choose among the files of a component's folder; None where none holds its weights.

    >>> choose("text_encoder", ["model.bf16.safetensors", "config.json"])
    Choice(name='model.bf16.safetensors', precision='bf16')

    A ValueError names the choices where there are several precisions.
    """
    stem = re.escape(weight_stem(component))
    form = re.compile(rf"{stem}(\.([\w-]+))?\.safetensors|{stem}\.safetensors\.index(\.([\w-]+))?\.json")
    found: dict[str | None, list[str]] = {}
    for name in names:
        if (match := form.fullmatch(name)) and not re.search(r"-\d+-of-\d+\.", name):
            found.setdefault(match[2] or match[4], []).append(name)
    if not found:
        return None
    if None not in found and len(found) > 1:
        listed = sorted(name for each in found.values() for name in each)
        kinds = " and as ".join(sorted(filter(None, found)))
        raise ValueError(
            f"{component} has weights as {kinds}, and none without a precision in their name: {', '.join(listed)}; "
            "leave one of them in the folder."
        )
    precision = None if None in found else next(iter(found))
    return Choice(_first(component, found[precision]), precision)


def _first(component: str, names: list[str]) -> str:
    """Choose between a file and an index as the component's library does: transformers prefers the file."""
    return min(names, key=lambda name: name.endswith(".json") is (component == "text_encoder"))


def shard_names(component: str, index: Path) -> list[str]:
    """List the files that an index names, each once.

    A ValueError says that the index is damaged, or names one that is no plain file name of the index's folder.
    """
    label = f"{component}/{index.name}"
    places = read_json(index, label).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{label} has no weight_map of tensors to files; download it again.")
    names = list(dict.fromkeys(places.values())) if all(map(_is_plain, places.values())) else []
    if not names:
        wrong = next(name for name in places.values() if not _is_plain(name))
        raise ValueError(f"{label} names {wrong!r}, which is no plain safetensors file of its own folder.")
    return sorted(names)


def check_indexes(component: str, folder: Path) -> None:
    """Check every index in a component's folder, used or not: plain names, and no link that leads out of the folder.

    The Hub's cache may link to its blobs. A ValueError names the first file that is refused.
    """
    real = folder.absolute()
    blobs = [each.parent.resolve() / "blobs" for each in real.parents if each.name == "snapshots"]
    inside = [real.resolve(), *blobs]
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        for name in shard_names(component, index):
            target = (real / name).resolve()
            if not any(target.is_relative_to(each) for each in inside):
                raise ValueError(
                    f"{component}/{index.name} names {name!r}, a link that leads out of its folder; "
                    "put the file itself there."
                )


def _is_plain(name: Any) -> bool:
    """Tell whether this is the name of a safetensors file on every system, without a folder, a drive or a root."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or "\0" in name:
        return False
    return name == PurePosixPath(name).name == PureWindowsPath(name).name
