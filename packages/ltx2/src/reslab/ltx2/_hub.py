"""Fetch a checkpoint from the Hugging Face Hub: only the files it needs, and only if it can work.

First come the configurations, a few kilobytes. They tell the variant and how large every component will be. From
these and from the list of files comes a `DownloadPlan`, which is printed and checked; only then are weights fetched.

    fetch(HuggingFaceHub(), "diffusers/LTX-2.3-Diffusers", None, Wanted())

`Hub` is the seam: tests give a client of their own.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.auto import tqdm

from reslab.ltx2._checkpoint import MARK_FILE
from reslab.ltx2._detect import check_variant, detect
from reslab.ltx2._download import DownloadPlan, FetchedFile, free_disk_bytes, free_host_bytes
from reslab.ltx2._layout import INDEX, REQUIRED, UPSAMPLER, WITHOUT_WEIGHTS, Layout, find_layout, read_config
from reslab.ltx2._read import Wanted, memory_bytes
from reslab.ltx2._variants import HubFile, Variant, variants

_log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """List the files of a repository at one commit, with their bytes."""

    commit: str
    sizes: Mapping[str, int]


@runtime_checkable
class Hub(Protocol):
    """What is asked of the Hub."""

    def listing(self, repo: str, revision: str | None) -> Listing:
        """List the files of a repository; a ValueError tells that there is none, or none that may be read."""
        ...

    def is_cached(self, repo: str, commit: str, path: str) -> bool:
        """Tell whether a file is on this machine already."""
        ...

    def download(self, repo: str, commit: str, paths: Sequence[str]) -> Path:
        """Fetch files, and return the folder in which they lie under their paths."""
        ...

    def cache_folder(self) -> Path:
        """Return the folder that downloads go to; it need not exist yet."""
        ...


class HuggingFaceHub:
    """The Hub itself, through `huggingface_hub` and its cache."""

    def listing(self, repo: str, revision: str | None) -> Listing:
        """List the files of a repository at one commit."""
        try:
            info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        except RevisionNotFoundError:
            raise ValueError(f"{repo!r} has no revision {revision!r}; name a branch, tag or commit of it.") from None
        except RepositoryNotFoundError:
            raise ValueError(f"There is no {repo!r} on the Hub, or it needs a login: `hf auth login`.") from None
        except (HfHubHTTPError, OSError) as error:
            raise ValueError(f"The Hub cannot be reached for {repo!r} ({error}); give a folder instead.") from None
        return Listing(info.sha, {each.rfilename: each.size or 0 for each in info.siblings})

    def is_cached(self, repo: str, commit: str, path: str) -> bool:
        """Tell whether a file is in the cache already."""
        return isinstance(huggingface_hub.try_to_load_from_cache(repo, path, revision=commit), str)

    def download(self, repo: str, commit: str, paths: Sequence[str]) -> Path:
        """Fetch files into the cache; what was interrupted is resumed."""
        return Path(huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=list(paths)))

    def cache_folder(self) -> Path:
        """Return the cache's folder."""
        return Path(constants.HF_HUB_CACHE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Say where a fetched checkpoint lies, and which commit it is."""

    layout: Layout
    commit: str


def is_hub_id(source: str) -> bool:
    """Tell whether a text has the form of a Hub id, `owner/name`.

    >>> is_hub_id("Lightricks/LTX-2"), is_hub_id("./LTX-2"), is_hub_id("LTX-2")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source) is not None


def fetch(hub: Hub, repo: str, revision: str | None, wanted: Wanted) -> Fetched:
    """Fetch a checkpoint, and the upsampler and the LoRA of its variant unless these two are given.

    A ValueError names what the repository lacks, or why the download cannot work.
    """
    listing = hub.listing(repo, revision)
    root = _fetch_configs(hub, repo, listing)
    found = detect(read_config(root / "transformer"), read_config(root / "scheduler"))
    check_variant(found, asked=wanted.variant, marked=None)
    upsampler = [] if wanted.latent_upsampler else _upsampler_files(hub, found, repo, listing)
    lora = [] if wanted.lora or found.distilled_lora is None else [_lora_file(hub, found.distilled_lora, repo, listing)]
    files = (*_component_files(hub, repo, listing, root), *upsampler, *lora)
    plan = DownloadPlan(
        source=repo,
        commit=listing.commit,
        variant=found.name,
        files=files,
        free_disk_bytes=free_disk_bytes(hub.cache_folder()),
        host_memory_bytes=memory_bytes(root, found, wanted),
        free_host_bytes=free_host_bytes(),
    )
    _announce(plan, wanted.progress)
    folders = _download(hub, files)
    layout = find_layout(
        root,
        latent_upsampler=wanted.latent_upsampler or next(((folders[f.repo] / f.path).parent for f in upsampler), None),
        lora=wanted.lora or next((folders[f.repo] / f.path for f in lora), None),
    )
    return Fetched(layout=layout, commit=listing.commit)


def _fetch_configs(hub: Hub, repo: str, listing: Listing) -> Path:
    if INDEX not in listing.sizes:
        raise ValueError(f"{repo!r} has no {INDEX}: it is not in diffusers' layout. {_published()}")
    missing = [name for name in REQUIRED if not any(path.startswith(f"{name}/") for path in listing.sizes)]
    if missing:
        raise ValueError(f"{repo!r} has no folder for {', '.join(missing)}. {_published()}")
    folders = (*REQUIRED, UPSAMPLER)
    configs = [path for path in listing.sizes if path.endswith(".json") and path.split("/")[0] in folders]
    marks = [path for path in (INDEX, MARK_FILE) if path in listing.sizes]
    return hub.download(repo, listing.commit, [*marks, *configs])


def _published() -> str:
    return f"Published in that layout are {', '.join(repr(each.hub_id) for each in variants())}."


def _component_files(hub: Hub, repo: str, listing: Listing, root: Path) -> list[FetchedFile]:
    """List the weights of each component that the repository has, and the tokenizer's files."""
    paths = [path for path in listing.sizes if path.startswith("tokenizer/")]
    for name in REQUIRED:
        if name not in WITHOUT_WEIGHTS:
            paths += weight_paths(name, listing.sizes, root)
    return [_file(hub, repo, listing, path) for path in paths]


def weight_paths(folder: str, sizes: Iterable[str], root: Path) -> list[str]:
    """Name the safetensors files of one component: those of its index, or the one that has no variant in its name.

    A ValueError tells that the repository has none.
    """
    inside = sorted(path for path in sizes if path.startswith(f"{folder}/"))
    for path in inside:
        if path.endswith(".safetensors.index.json"):
            index = json.loads((root / path).read_text(encoding="utf-8"))
            return [f"{folder}/{name}" for name in sorted(set(index["weight_map"].values()))]
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        if f"{folder}/{name}" in inside:
            return [f"{folder}/{name}"]
    raise ValueError(f"The repository has no safetensors for {folder}, and pickled weights are not loaded.")


def _upsampler_files(hub: Hub, found: Variant, repo: str, listing: Listing) -> list[FetchedFile]:
    """List the upsampler's files: in the repository itself, or else where the variant's is published."""
    inside = any(path.startswith(f"{UPSAMPLER}/") for path in listing.sizes)
    place = HubFile(repo=repo, path=UPSAMPLER) if inside else found.latent_upsampler
    theirs = listing if place.repo == repo else hub.listing(place.repo, None)
    paths = [path for path in theirs.sizes if path.startswith(f"{place.path}/") and not path.endswith(".bin")]
    return [_file(hub, place.repo, theirs, path) for path in paths]


def _lora_file(hub: Hub, place: HubFile, repo: str, listing: Listing) -> FetchedFile:
    theirs = listing if place.repo == repo else hub.listing(place.repo, None)
    return _file(hub, place.repo, theirs, place.path)


def _file(hub: Hub, repo: str, listing: Listing, path: str) -> FetchedFile:
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
    """Fetch all files, repository by repository; return each one's folder."""
    by_repo: dict[tuple[str, str], list[str]] = {}
    for file in wanted:
        by_repo.setdefault((file.repo, file.commit), []).append(file.path)
    return {repo: hub.download(repo, commit, paths) for (repo, commit), paths in by_repo.items()}
