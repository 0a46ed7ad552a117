"""Fetch a checkpoint from the Hugging Face Hub: only the files that it needs, and only where disk and memory suffice.

    fetch(HuggingFaceHub(), "diffusers/LTX-2.3-Diffusers", None, LoadRequest())

The configurations, a few kilobytes, come first: they determine the variant and the size of every component. Together
with the list of files they make a `DownloadPlan`, which is printed and checked. Weights are fetched after that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from reslab.ltx2._checkpoint._checkpoint import MARK_FILE
from reslab.ltx2._checkpoint._checkpoint_folder import (
    INDEX,
    REQUIRED,
    UPSAMPLER,
    WITHOUT_WEIGHTS,
    CheckpointFolder,
    check_given_paths,
    choose_file,
    inspect_folder,
    read_config,
    shard_names,
)
from reslab.ltx2._checkpoint._download_plan import DownloadPlan, FetchedFile, free_disk_bytes, free_host_bytes
from reslab.ltx2._checkpoint._hub import Hub, RepositoryListing
from reslab.ltx2._checkpoint._load_arguments import check_lora_use, leaves_in_files
from reslab.ltx2._checkpoint._lora import fitting_lora
from reslab.ltx2._checkpoint._lora_file import LoraFile
from reslab.ltx2._checkpoint._model_classes import check_variant, detect
from reslab.ltx2._checkpoint._read_component import LoadRequest, memory_bytes, meta_module
from reslab.ltx2._checkpoint._small_models import require_vocabulary
from reslab.ltx2._checkpoint._weights_in_files import held_lora_bytes
from reslab.ltx2._variants import HubFile, Variant, variants
from reslab.residency import Plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedCheckpoint:
    """Hold the folder of a fetched checkpoint and its commit."""

    folder: CheckpointFolder
    commit: str


def fetch(hub: Hub, repo: str, revision: str | None, wanted: LoadRequest) -> FetchedCheckpoint:
    """Fetch a checkpoint, and the upsampler and LoRA of its variant unless the user gives others.

    Raises:
        ValueError: The repository lacks files, or disk or memory do not suffice.
    """
    listing = hub.listing(repo, revision)
    root = _fetch_configs(hub, repo, listing)
    found = detect(read_config(root / "transformer"), read_config(root / "scheduler"))
    check_variant(found, asked=wanted.variant, marked=None)
    dtype = wanted.dtype or getattr(torch, found.dtype)
    given_lora = _check_given(found, root, wanted)
    upsampler, lora = _extra_files(hub, found, repo, listing, wanted)
    files = (*_component_files(hub, repo, listing, root), *upsampler, *lora)
    plan = DownloadPlan(
        source=repo,
        commit=listing.commit,
        variant=found.name,
        files=files,
        free_disk_bytes=free_disk_bytes(hub.cache_folder()),
        host_memory_bytes=memory_bytes(
            {name: root / name for name in REQUIRED},
            dtype,
            wanted,
            upsampler_bytes=_given_bytes(wanted.latent_upsampler) or _weights(upsampler),
            lora_bytes=_lora_bytes(given_lora, lora, dtype, wanted.plan),
        ),
        free_host_bytes=free_host_bytes(),
        by_plan=wanted.plan is not None,
    )
    _announce(plan, wanted.progress)
    folders = _download(hub, files)
    folder = inspect_folder(
        root,
        latent_upsampler=wanted.latent_upsampler or next(((folders[f.repo] / f.path).parent for f in upsampler), None),
        lora=wanted.lora or next((folders[f.repo] / f.path for f in lora), None),
        two_stage=wanted.two_stage,
    )
    return FetchedCheckpoint(folder=folder, commit=listing.commit)


def _fetch_configs(hub: Hub, repo: str, listing: RepositoryListing) -> Path:
    if INDEX not in listing.sizes:
        raise ValueError(f"{repo!r} has no {INDEX}: it is not in diffusers' layout. {_published()}")
    missing = [name for name in REQUIRED if not any(path.startswith(f"{name}/") for path in listing.sizes)]
    if missing:
        raise ValueError(f"{repo!r} has no folder for {', '.join(missing)}. {_published()}")
    folders = (*REQUIRED, UPSAMPLER)
    configs = [path for path in listing.sizes if path.endswith(".json") and path.split("/")[0] in folders]
    marks = [path for path in (INDEX, MARK_FILE) if path in listing.sizes]
    return hub.download(repo, listing.commit, [*marks, *configs])


def _check_given(found: Variant, root: Path, wanted: LoadRequest) -> LoraFile | None:
    """Check the user's own upsampler and LoRA before anything is downloaded, and return the LoRA."""
    check_given_paths(latent_upsampler=wanted.latent_upsampler, lora=wanted.lora)
    check_lora_use(found, given=wanted.lora is not None)
    return fitting_lora(wanted.lora, meta_module(root / "transformer")) if wanted.lora is not None else None


def _published() -> str:
    return f"Published in that layout are {', '.join(repr(each.hub_id) for each in variants())}."


def _component_files(hub: Hub, repo: str, listing: RepositoryListing, root: Path) -> list[FetchedFile]:
    """List the weight files of the repository's components, and the tokenizer's files."""
    paths = [path for path in listing.sizes if path.startswith("tokenizer/")]
    require_vocabulary(path.removeprefix("tokenizer/") for path in paths)
    for name in REQUIRED:
        if name not in WITHOUT_WEIGHTS:
            paths += weight_paths(name, listing.sizes, root)
    return [_file(hub, repo, listing, path) for path in paths]


def weight_paths(component: str, sizes: Iterable[str], root: Path) -> list[str]:
    """Return the paths of one component's safetensors files: those of its index, or the single one.

    Raises:
        ValueError: The repository has no safetensors file for the component.
    """
    inside = [path.removeprefix(f"{component}/") for path in sizes if path.startswith(f"{component}/")]
    chosen = choose_file(component, inside)
    if chosen:
        names = shard_names(component, root / component / chosen.name) if chosen.is_index else [chosen.name]
        return [f"{component}/{name}" for name in names]
    raise ValueError(f"The repository has no safetensors for {component}, and pickled weights are not loaded.")


def _upsampler_files(hub: Hub, found: Variant, repo: str, listing: RepositoryListing) -> list[FetchedFile]:
    """List the upsampler's files, in the repository itself or else where the variant's upsampler is published."""
    inside = any(path.startswith(f"{UPSAMPLER}/") for path in listing.sizes)
    place = HubFile(repo=repo, path=UPSAMPLER) if inside else found.latent_upsampler
    theirs = listing if place.repo == repo else hub.listing(place.repo, None)
    paths = [path for path in theirs.sizes if path.startswith(f"{place.path}/") and not path.endswith(".bin")]
    return [_file(hub, place.repo, theirs, path) for path in paths]


def _extra_files(
    hub: Hub, found: Variant, repo: str, listing: RepositoryListing, wanted: LoadRequest
) -> tuple[list[FetchedFile], list[FetchedFile]]:
    """List the files of upsampler and LoRA that two stages need and the user does not give."""
    if not wanted.two_stage:
        return [], []
    upsampler = [] if wanted.latent_upsampler else _upsampler_files(hub, found, repo, listing)
    place = found.distilled_lora
    if wanted.lora or place is None:
        return upsampler, []
    theirs = listing if place.repo == repo else hub.listing(place.repo, None)
    return upsampler, [_file(hub, place.repo, theirs, place.path)]


def _weights(files: Iterable[FetchedFile]) -> int:
    return sum(file.nbytes for file in files if file.path.endswith(".safetensors"))


def _lora_bytes(given: LoraFile | None, files: Iterable[FetchedFile], dtype: torch.dtype, plan: Plan | None) -> int:
    """Return the host memory that the LoRA will take; the scale of one that is still to be fetched is not known."""
    if given is not None:
        return held_lora_bytes(given, dtype, plan)
    return 0 if leaves_in_files(plan, "transformer") else _weights(files)


def _given_bytes(path: Path | None) -> int:
    """Return the bytes of the user's safetensors file, or of those in the user's folder."""
    if path is None or not path.exists():
        return 0
    files = path.rglob("*.safetensors") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _file(hub: Hub, repo: str, listing: RepositoryListing, path: str) -> FetchedFile:
    if path not in listing.sizes:
        raise ValueError(f"{repo!r} lacks {path!r} at {listing.commit[:7]}; it was left incomplete, or renamed.")
    cached = hub.is_cached(repo, listing.commit, path)
    return FetchedFile(repo=repo, commit=listing.commit, path=path, nbytes=listing.sizes[path], cached=cached)


def _announce(plan: DownloadPlan, progress: bool) -> None:
    _log.info("%s", plan)
    if progress and plan.fetch_bytes:
        tqdm.write(plan.text())
    plan.check()


def _download(hub: Hub, wanted: Iterable[FetchedFile]) -> dict[str, Path]:
    """Fetch all files, repository by repository; return the folder of each repository."""
    by_repo: dict[tuple[str, str], list[str]] = {}
    for file in wanted:
        by_repo.setdefault((file.repo, file.commit), []).append(file.path)
    return {repo: hub.download(repo, commit, paths) for (repo, commit), paths in by_repo.items()}
