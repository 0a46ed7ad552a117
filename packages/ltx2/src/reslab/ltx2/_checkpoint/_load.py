"""Load a checkpoint: small and in memory, from a folder, or from the Hugging Face Hub.

    load("tiny", variant="LTX-2.3")                          # random weights, 6 MiB, no files
    load("mid", variant="LTX-2.3")                           # the same, heavy enough to feel a copy
    load("folder")                                           # diffusers layout; the variant is read from it
    load("diffusers/LTX-2.3-Diffusers", dtype=torch.bfloat16)     # says what it will fetch, and whether it can work
    load("diffusers/LTX-2.3-Diffusers", plan=plan)                # what the plan has on disk stays there

Named as errors are: an unknown source or variant, a single file, by what it is, a contradiction between the
configurations and `variant`, a missing component or shard, a damaged file, keys, shapes or a vocabulary that do not
fit, a LoRA that cannot be applied as its file says, too little disk or memory.

One loader reads the small checkpoint that `write` wrote and a released one. Weights are copied once to aligned memory,
see `_align`. What is missing or damaged is named before anything is used.
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
    """Load a checkpoint and check that it is whole; a ValueError names what is not.

    >>> load("tiny", variant="LTX-2")
    Checkpoint('LTX-2' from 'tiny', 3.08 MiB, untrained weights: noise by design)

    `source` is "tiny", "mid" (tiny's geometry at half a gigabyte), a folder, or a Hub id such as "Lightricks/LTX-2".
    `variant` is read from the configurations unless given ("LTX-2.3" for "tiny" and "mid"); `dtype` is bfloat16 for
    released and float32 for untrained weights unless given. `revision` is a branch, tag or commit on the Hub, `device`
    where the weights come to lie. `latent_upsampler` (a folder) and `lora` (a safetensors file, or a folder with one)
    replace the checkpoint's own; `two_stage=False` leaves out both, which one stage has no use for. A LoRA has the
    scale that its file says, alpha / rank. Weights saved with a precision in their names are read where there is one
    precision alone. `progress` shows bars and what will be downloaded; `hub` replaces the Hub's client.

    With a `plan` only what waits in host memory there is loaded to it. What the plan has on disk, or keeps on the
    device, stays in its files: `residency.apply(pipe, plan, files=checkpoint.files)` brings it from there. So loading
    never needs more host memory than the plan says, but for a LoRA with a scale of its own: that one is read. Where
    what is loaded, and the window of what comes from disk, do not fit in host memory, nothing is read.
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
            raise ValueError("The plan says where weights come to lie: leave out device, or plan.")
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
    """Refuse to read what host memory does not suffice for; all that is known of it lies here by now."""
    short = too_little_host(need_bytes, free_host_bytes(), by_plan=wanted.plan is not None)
    if short is not None:
        raise ValueError(f"{short} Nothing was read of {source!r}; free some, or load elsewhere.")


def _read_lora(lora: LoraFile, dtype: torch.dtype, files: dict[str, Files]) -> Mapping[str, torch.Tensor]:
    """Read a LoRA; where the transformer is left in its files, it is left in its own, which is added to them."""
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
