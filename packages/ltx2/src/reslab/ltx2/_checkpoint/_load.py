"""Load a checkpoint: small and in memory, from a folder, or from the Hugging Face Hub.

    load("tiny", variant="LTX-2.3")                          # random weights, 6 MiB, no files
    load("mid", variant="LTX-2.3")                           # the same at half a gigabyte, so that copies take time
    load("folder")                                           # diffusers layout; the variant is read from it
    load("diffusers/LTX-2.3-Diffusers", dtype=torch.bfloat16)     # lists the download and checks that it can work
    load("diffusers/LTX-2.3-Diffusers", plan=plan)                # weights that the plan has on disk stay there

One loader reads the small checkpoint that `write` wrote and a released one. It checks arguments, configurations, file
headers and free memory before it reads a weight, and copies weights once to aligned memory (`_align`). Its errors name
an unknown source or variant, a single file by its content, a contradiction between configurations and `variant`, a
missing component or shard, a damaged file, keys, shapes or a vocabulary that do not fit, a LoRA that cannot be applied
as its file says, and too little disk or memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from reslab.ltx2._checkpoint._checkpoint import Checkpoint, Files
from reslab.ltx2._checkpoint._checkpoint_folder import (
    UPSAMPLER,
    WITHOUT_WEIGHTS,
    CheckpointFolder,
    inspect_folder,
    read_config,
)
from reslab.ltx2._checkpoint._configs import COMPONENTS
from reslab.ltx2._checkpoint._download_plan import free_host_bytes, too_little_host
from reslab.ltx2._checkpoint._fetch import fetch
from reslab.ltx2._checkpoint._hub import Hub, HuggingFaceHub, is_hub_id
from reslab.ltx2._checkpoint._load_arguments import check_arguments, check_load_plan, check_lora_use, leaves_in_files
from reslab.ltx2._checkpoint._lora import fitting_lora
from reslab.ltx2._checkpoint._lora_file import LoraFile
from reslab.ltx2._checkpoint._model_classes import check_variant, detect
from reslab.ltx2._checkpoint._read_component import LoadRequest, memory_bytes, meta_module, read_component, text_rows
from reslab.ltx2._checkpoint._single_file import describe, is_file_like
from reslab.ltx2._checkpoint._small_configs import SIZES
from reslab.ltx2._checkpoint._small_models import check_vocabulary, small
from reslab.ltx2._checkpoint._weights_in_files import held_lora_bytes, lora_in_file, read_in_files
from reslab.ltx2._variants import EVERY_VARIANT
from reslab.residency import Plan


def load(
    source: str | os.PathLike[str],
    *,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    device: torch.device | str | None = None,
    latent_upsampler: str | os.PathLike[str] | None = None,
    lora: str | os.PathLike[str] | None = None,
    two_stage: bool = True,
    progress: bool = True,
    hub: Hub | None = None,
    plan: Plan | Any = None,
) -> Checkpoint:
    """Load a checkpoint and check that it is complete.

    >>> load("tiny", variant="LTX-2")
    Checkpoint('LTX-2' from 'tiny', 3.08 MiB, untrained weights: noise by design)

    With a `plan`, `load` reads only the weights that wait in host memory. Weights that the plan has on disk or keeps on
    the device stay in their files, and `residency.apply(pipe, plan, files=checkpoint.files)` fetches them from there.
    So loading never needs more host memory than the plan says, except for a LoRA with a scale of its own, which is
    read. Where the loaded weights and the window for those on disk do not fit in host memory, nothing is read.

    Args:
        source: "tiny", "mid" (tiny's geometry at half a gigabyte), a folder, or a Hub id such as "Lightricks/LTX-2".
            Weight files with a precision in their names are read where there is only one precision.
        variant: The variant's name; by default the configurations decide, and "tiny" and "mid" are LTX-2.3.
        dtype: The type of the weights; by default bfloat16 for released and float32 for untrained weights.
        revision: A branch, tag or commit on the Hub.
        device: The device for the weights; by default the CPU.
        latent_upsampler: The folder of an upsampler that replaces the checkpoint's own.
        lora: A LoRA's safetensors file, or a folder with one, that replaces the checkpoint's own. The LoRA has the
            scale that its file says, alpha / rank.
        two_stage: Whether to load upsampler and LoRA, which one stage does not use.
        progress: Whether to show progress bars and the list of the download.
        hub: A client that replaces the Hub's.
        plan: The plan of a run, such as `residency.survey(...).plan`.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The message names the wrong argument, or the missing, damaged or unfitting part.
    """
    check_arguments(
        source,
        name=variant,
        dtype=dtype,
        device=device,
        revision=revision,
        latent_upsampler=latent_upsampler,
        lora=lora,
        two_stage=two_stage,
    )
    if plan is not None:
        check_load_plan(plan, [name for name in COMPONENTS if name not in WITHOUT_WEIGHTS])
        if device is not None:
            raise ValueError("The plan places the weights: leave out device, or plan.")
    wanted = LoadRequest(
        variant=variant,
        dtype=dtype,
        device=device,
        latent_upsampler=_path(latent_upsampler),
        lora=_path(lora),
        two_stage=two_stage,
        progress=progress,
        plan=plan,
    )
    if source in SIZES:
        return _small(str(source), wanted, revision)
    if Path(source).is_dir():
        return _local(Path(source), wanted, revision)
    if is_file_like(source):
        raise ValueError(describe(Path(source)))
    if not is_hub_id(str(source)):
        raise ValueError(_unknown(str(source)))
    fetched = fetch(hub or HuggingFaceHub(), str(source), revision, wanted)
    return _read(fetched.folder, str(source), fetched.commit, wanted)


def _small(size: str, wanted: LoadRequest, revision: str | None) -> Checkpoint:
    if any(each is not None for each in (revision, wanted.latent_upsampler, wanted.lora, wanted.plan)):
        raise ValueError(
            f'load("{size}") builds everything in memory: leave out revision, latent_upsampler, lora and plan.'
        )
    whole = small(wanted.variant or "LTX-2.3", size, dtype=wanted.dtype or torch.float32, device=wanted.device)
    if wanted.two_stage:
        return whole
    components = {name: part for name, part in whole.components.items() if name != UPSAMPLER}
    return replace(whole, components=components, distilled_lora=None)


def _local(folder: Path, wanted: LoadRequest, revision: str | None) -> Checkpoint:
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for the Hub, but {str(folder)!r} is a folder; leave it out.")
    found = inspect_folder(
        folder, latent_upsampler=wanted.latent_upsampler, lora=wanted.lora, two_stage=wanted.two_stage
    )
    return _read(found, str(folder), None, wanted)


def _read(folder: CheckpointFolder, source: str, commit: str | None, wanted: LoadRequest) -> Checkpoint:
    mark = folder.mark or {}
    found = detect(read_config(folder.parts["transformer"]), read_config(folder.parts["scheduler"]))
    check_variant(found, asked=wanted.variant, marked=mark.get("variant"))
    check_lora_use(found, given=wanted.lora is not None)
    lora = None
    if folder.lora is not None and not found.is_distilled:
        lora = fitting_lora(folder.lora, meta_module(folder.parts["transformer"]))
    untrained = bool(mark.get("untrained", False))
    dtype = wanted.dtype or (torch.float32 if untrained else getattr(torch, found.dtype))
    held = held_lora_bytes(lora, dtype, wanted.plan) if lora else 0
    _check_host(memory_bytes(folder.parts, dtype, wanted, lora_bytes=held), source, wanted)
    parts: dict[str, Any] = {}
    files: dict[str, Files] = {}
    for name in (bar := tqdm([each for each in COMPONENTS if each in folder.parts], disable=not wanted.progress)):
        bar.set_description(f"load {name}")
        if name not in WITHOUT_WEIGHTS and leaves_in_files(wanted.plan, name):
            parts[name], files[name] = read_in_files(name, folder.parts[name], dtype=dtype)
        else:
            parts[name] = read_component(name, folder.parts[name], dtype=dtype, device=wanted.device)
        if name == "tokenizer":
            check_vocabulary(parts[name], text_rows(folder.parts["text_encoder"]))
    state = _read_lora(lora, dtype, files) if lora else None
    return Checkpoint(
        variant=found,
        components=parts,
        distilled_lora=state,
        source=source,
        revision=commit,
        untrained=untrained,
        files=files,
    )


def _check_host(need_bytes: int, source: str, wanted: LoadRequest) -> None:
    """Check that host memory suffices before a weight is read; all files are on this machine by now."""
    short = too_little_host(need_bytes, free_host_bytes(), by_plan=wanted.plan is not None)
    if short is not None:
        raise ValueError(f"{short} Nothing was read of {source!r}; free some, or load elsewhere.")


def _read_lora(lora: LoraFile, dtype: torch.dtype, files: dict[str, Files]) -> Mapping[str, torch.Tensor]:
    """Read a LoRA; where the transformer stays in its files, leave the LoRA in its own and add that to them."""
    left = lora_in_file(lora, dtype) if "transformer" in files else None
    if left is None:
        return lora.read(dtype=dtype)
    files["transformer"] += left[1]
    return left[0]


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _unknown(source: str) -> str:
    named = next((each for each in EVERY_VARIANT if each.name.casefold() == source.casefold()), None)
    if named is not None:
        named.require_weights()
    hint = f"; {named.name} is published as {named.hub_id!r}" if named else ""
    return (
        f'{source!r} is no folder here and no Hub id such as "Lightricks/LTX-2"{hint}. '
        'For untrained weights use load("tiny", variant="LTX-2.3").'
    )
