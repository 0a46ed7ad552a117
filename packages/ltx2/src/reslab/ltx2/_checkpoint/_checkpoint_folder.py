"""Find the files of a checkpoint on disk, and name the missing or damaged ones before any is loaded.

    folder = inspect_folder(Path("folder"))
    headers("vae", folder.parts["vae"])["latents_mean"]      # StoredTensor(shape=(128,), dtype='BF16', file=…)
    choose_file("vae", ["diffusion_pytorch_model.bf16.safetensors"]).precision      # 'bf16'

A checkpoint folder is in diffusers' layout: `model_index.json` and a folder for each component, with weights as
safetensors, in one file or in shards with an index. Only names, headers and sizes are read.

diffusers and transformers name weight files alike: `<stem>.safetensors`, or `<stem>.safetensors.index.json` with shards
beside it; with `variant="bf16"`, `<stem>.bf16.safetensors` and `<stem>.safetensors.index.bf16.json`. Files without a
precision in their name come first; where all have one precision, they are loaded. An index may only name plain files
of its own folder: it may come from an untrusted source, and the files that it names are opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from reslab.ltx2._checkpoint._checkpoint import LORA_FILE, MARK_FILE
from reslab.ltx2._checkpoint._configs import COMPONENTS
from reslab.ltx2._checkpoint._file_headers import FLOATS, StoredTensor, read_header, read_json
from reslab.ltx2._checkpoint._small_models import check_tokenizer_files
from reslab.ltx2._variants import variants
from reslab.stages.support import freeze

INDEX = "model_index.json"
UPSAMPLER = "latent_upsampler"
REQUIRED = tuple(name for name in COMPONENTS if name != UPSAMPLER)
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")
# The ending of counters that older releases stored as buffers; newer ones compute them.
COMPUTED = "position_ids"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFolder:
    """Hold the places of a checkpoint's parts: each component's folder, the LoRA's file, and the mark of `write`."""

    root: Path
    parts: Mapping[str, Path]
    lora: Path | None
    mark: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        freeze(self)


def inspect_folder(
    root: Path, *, latent_upsampler: Path | None = None, lora: Path | None = None, two_stage: bool = True
) -> CheckpointFolder:
    """Find the components in a folder; upsampler and LoRA may be elsewhere, missing, or left out.

    Raises:
        ValueError: Components or their files are missing or damaged; the message names them.
    """
    if not (root / INDEX).is_file():
        raise ValueError(f"{str(root)!r} has no {INDEX}: it is not a checkpoint in diffusers' layout.")
    missing = [name for name in REQUIRED if not (root / name).is_dir()]
    if missing:
        raise ValueError(f"{str(root)!r} has no folder for {', '.join(missing)}; download the checkpoint again.")
    check_given_paths(latent_upsampler=latent_upsampler, lora=lora)
    parts = {name: root / name for name in REQUIRED}
    upsampler = latent_upsampler or root / UPSAMPLER
    if two_stage and upsampler.is_dir():
        parts[UPSAMPLER] = upsampler
    _check_files(root, parts)
    return CheckpointFolder(
        root=root,
        parts=parts,
        lora=(lora or _lora_file(root)) if two_stage else None,
        mark=_read_mark(root / MARK_FILE),
    )


def check_given_paths(*, latent_upsampler: Path | None, lora: Path | None) -> None:
    """Check that the user's upsampler is a folder and the LoRA exists; a ValueError names the wrong path."""
    for given, meaning in ((latent_upsampler, "latent_upsampler"), (lora, "lora")):
        if given is not None and not given.exists():
            raise ValueError(f"{meaning}: there is no {str(given)!r}.")
    if latent_upsampler is not None and not latent_upsampler.is_dir():
        raise ValueError(f"latent_upsampler is a folder, but {str(latent_upsampler)!r} is a file; give its folder.")


def _check_files(root: Path, parts: Mapping[str, Path]) -> None:
    """Check every configuration and index, and that each component's files exist, before a weight file is opened."""
    read_json(root / INDEX, INDEX)
    check_tokenizer_files(parts["tokenizer"])
    for name in parts.keys() - {"tokenizer"}:
        read_config(parts[name])
    weighted = [name for name in parts if name not in WITHOUT_WEIGHTS]
    for name in weighted:
        check_indexes(name, parts[name])
    for name in weighted:
        weight_files(name, parts[name])


def _read_mark(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    mark = read_json(file, file.name)
    for key, kind in (("variant", str), ("untrained", bool)):
        if not isinstance(mark.get(key, kind()), kind):
            raise ValueError(f"{file.name} has {key}={mark[key]!r}, not a {kind.__name__}; write the checkpoint again.")
    return mark


def _lora_file(root: Path) -> Path | None:
    names = [LORA_FILE, *(each.distilled_lora.path for each in variants() if each.distilled_lora)]
    return next((root / name for name in names if (root / name).is_file()), None)


def weight_files(component: str, folder: Path) -> list[Path]:
    """List the safetensors files of one component: those that its index names, or the single one.

    Raises:
        ValueError: Shards are missing, or the weights are in another format.
    """
    chosen = choose_file(component, (path.name for path in folder.iterdir()))
    if chosen is None:
        raise ValueError(_no_weights(component, folder))
    if not chosen.is_index:
        return [folder / chosen.name]
    names = shard_names(component, folder / chosen.name)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{component}: {len(missing)} of {len(names)} shards are missing: {_some(missing)}.")
    return [folder / name for name in names]


def _no_weights(component: str, folder: Path) -> str:
    others = sorted(path.name for path in folder.glob("*.bin"))
    if others:
        return (
            f"{component} has {_some(others)} but no safetensors: pickled weights can run code and are not loaded; "
            "convert them to safetensors, or load a repository that has them."
        )
    return f"{component} has no weights: {str(folder)!r} holds no {weight_stem(component)}.safetensors."


def precision(component: str, folder: Path) -> str | None:
    """Return the precision in the names of a component's weight files, its library's `variant`; None without one."""
    chosen = choose_file(component, (path.name for path in folder.iterdir()))
    return chosen.precision if chosen else None


def headers(component: str, folder: Path) -> dict[str, StoredTensor]:
    """Read names, shapes and dtypes of all weights of one component, without the weights.

    Raises:
        ValueError: A file is truncated or damaged, or a tensor holds whole numbers.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(component, folder):
        found |= read_header(file, f"{component}/{file.name}").tensors
    wrong = [key for key, each in found.items() if each.dtype not in FLOATS and not key.endswith(COMPUTED)]
    if wrong:
        first = found[wrong[0]]
        raise ValueError(
            f"{component}/{first.file.name} holds {wrong[0]!r} as {first.dtype}, where weights are floating-point "
            f"numbers ({len(wrong)} such tensors); convert the checkpoint from its original weights again."
        )
    return found


def config_name(folder: Path) -> str:
    """Return the name that errors give the configuration file of a component.

    >>> config_name(Path("checkpoint/scheduler"))
    'scheduler/scheduler_config.json'
    """
    return f"{folder.name}/{'scheduler_config.json' if folder.name == 'scheduler' else 'config.json'}"


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of one component; a ValueError says that it is missing or no JSON."""
    name = config_name(folder)
    file = folder / Path(name).name
    if not file.is_file():
        raise ValueError(f"{folder.name} has no {file.name}; download the checkpoint again.")
    return read_json(file, name)


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


class ChosenFile(NamedTuple):
    """Hold the name of a component's weight file or index, and the precision in that name."""

    name: str
    precision: str | None

    @property
    def is_index(self) -> bool:
        """Tell whether the file is an index, which names others."""
        return self.name.endswith(".json")


def weight_stem(component: str) -> str:
    """Return the stem that a component's library gives its weight files.

    >>> weight_stem("text_encoder"), weight_stem("vae")
    ('model', 'diffusion_pytorch_model')
    """
    return "model" if component == "text_encoder" else "diffusion_pytorch_model"


def choose_file(component: str, names: Iterable[str]) -> ChosenFile | None:
    """Choose a component's weight file or index among the files of its folder; None where there is none.

    >>> choose_file("text_encoder", ["model.bf16.safetensors", "config.json"])
    ChosenFile(name='model.bf16.safetensors', precision='bf16')

    Raises:
        ValueError: The files have several precisions; the message names the files.
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
    return ChosenFile(_first(component, found[precision]), precision)


def _first(component: str, names: list[str]) -> str:
    """Choose between a file and an index as the component's library does: transformers prefers the file."""
    return min(names, key=lambda name: name.endswith(".json") is (component == "text_encoder"))


def shard_names(component: str, index: Path) -> list[str]:
    """List the files that an index names, each once.

    Raises:
        ValueError: The index is damaged, or names a file that is not a plain one of its own folder.
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
    """Check that every index in a component's folder, used or not, names plain files and no link out of the folder.

    The Hub's cache may link to its blobs.

    Raises:
        ValueError: An index names another file; the message names the first.
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
    """Tell whether a value is, on every system, the name of a safetensors file without folder, drive or root."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or "\0" in name:
        return False
    return name == PurePosixPath(name).name == PureWindowsPath(name).name
