"""Find the files of a checkpoint on disk, and name what is missing or damaged before anything is loaded.

A checkpoint folder is in diffusers' layout: `model_index.json` and a folder for each component, weights as
safetensors, in one file or in shards with an index. Nothing is read but names, headers and sizes.

    layout = find_layout("folder")
    headers("vae", layout.parts["vae"])["latents_mean"]      # Stored(shape=(128,), dtype='BF16', file=…)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from reslab.ltx2._checkpoint import LORA_FILE, MARK_FILE
from reslab.ltx2._configs import COMPONENTS
from reslab.ltx2._variants import variants

INDEX = "model_index.json"
UPSAMPLER = "latent_upsampler"
REQUIRED = tuple(name for name in COMPONENTS if name != UPSAMPLER)
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")


class Stored(NamedTuple):
    """Describe one tensor of a safetensors file."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Say where the parts of a checkpoint lie: a folder a component, the LoRA's file, and what `write` marked."""

    root: Path
    parts: Mapping[str, Path]
    lora: Path | None
    mark: Mapping[str, Any] | None


def find_layout(
    root: Path, *, latent_upsampler: Path | None = None, lora: Path | None = None, two_stage: bool = True
) -> Layout:
    """Find the components in a folder; the upsampler and the LoRA may lie elsewhere, be absent, or be left out.

    A ValueError names every component that is missing.
    """
    if not (root / INDEX).is_file():
        raise ValueError(f"{str(root)!r} has no {INDEX}: it is not a checkpoint in diffusers' layout.")
    missing = [name for name in REQUIRED if not (root / name).is_dir()]
    if missing:
        raise ValueError(f"{str(root)!r} has no folder for {', '.join(missing)}; download the checkpoint again.")
    for given, meaning in ((latent_upsampler, "latent_upsampler"), (lora, "lora")):
        if given is not None and not given.exists():
            raise ValueError(f"{meaning}: there is no {str(given)!r}.")
    parts = {name: root / name for name in REQUIRED}
    upsampler = latent_upsampler or root / UPSAMPLER
    if two_stage and upsampler.is_dir():
        parts[UPSAMPLER] = upsampler
    mark = root / MARK_FILE
    return Layout(
        root=root,
        parts=parts,
        lora=(lora or _lora_file(root)) if two_stage else None,
        mark=json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None,
    )


def _lora_file(root: Path) -> Path | None:
    names = [LORA_FILE, *(each.distilled_lora.path for each in variants() if each.distilled_lora)]
    return next((root / name for name in names if (root / name).is_file()), None)


def weight_stem(component: str) -> str:
    """Return how the weight files of a component are named: as its own library does, whatever else lies there.

    >>> weight_stem("text_encoder"), weight_stem("vae")
    ('model', 'diffusion_pytorch_model')
    """
    return "model" if component == "text_encoder" else "diffusion_pytorch_model"


def weight_files(component: str, folder: Path) -> list[Path]:
    """List the safetensors files of one component: those that its index names, or the one there is.

    A ValueError names shards that are missing, or says that there are weights in another format only.
    """
    single = folder / f"{weight_stem(component)}.safetensors"
    index = folder / f"{single.name}.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{component}: {len(missing)} of {len(names)} shards are missing: {_some(missing)}.")
        return [folder / name for name in names]
    if single.is_file():
        return [single]
    others = sorted(path.name for path in folder.glob("*.bin"))
    if others:
        raise ValueError(
            f"{component} has {_some(others)} but no safetensors: pickled weights can run code and are not loaded; "
            "convert them to safetensors, or load a repository that has them."
        )
    raise ValueError(f"{component} has no weights: {str(folder)!r} holds no {single.name}.")


def headers(component: str, folder: Path) -> dict[str, Stored]:
    """Read names, shapes and dtypes of all weights of one component, without the weights.

    A ValueError names a file that is truncated or damaged, with its size.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(component, folder):
        try:
            with safe_open(file, framework="np") as tensors:  # for torch it maps the file so that it counts as memory
                for key in tensors.keys():  # noqa: SIM118 (no mapping: it has no __iter__)
                    part = tensors.get_slice(key)
                    found[key] = Stored(tuple(part.get_shape()), part.get_dtype(), file)
        except SafetensorError as error:
            size = f"{file.stat().st_size:,} bytes"
            raise ValueError(
                f"{component}/{file.name} is truncated or damaged ({size}: {error}); download it again."
            ) from None
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of one component; a ValueError says that it is missing or no JSON."""
    file = folder / ("scheduler_config.json" if folder.name == "scheduler" else "config.json")
    if not file.is_file():
        raise ValueError(f"{folder.name} has no {file.name}; download the checkpoint again.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder.name}/{file.name} is no JSON ({error}); download it again.") from None


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
