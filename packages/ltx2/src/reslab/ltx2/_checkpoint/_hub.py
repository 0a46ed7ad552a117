"""The seam to the Hugging Face Hub: what is asked of it, and the client that asks.

    hub = HuggingFaceHub()
    hub.listing("Lightricks/LTX-2", None).sizes["model_index.json"]      # bytes

Tests give a `Hub` of their own. Without a network what is cached is still there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

# Errors of the HTTP client under huggingface_hub, whichever its version has: without a network it raises its own.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


class RepositoryListing(NamedTuple):
    """List the files of a repository at one commit, with their bytes."""

    commit: str
    sizes: Mapping[str, int]


@runtime_checkable
class Hub(Protocol):
    """What is asked of the Hub."""

    def listing(self, repo: str, revision: str | None) -> RepositoryListing:
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

    def listing(self, repo: str, revision: str | None) -> RepositoryListing:
        """List the files of a repository at one commit."""
        try:
            info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        except RevisionNotFoundError:
            raise ValueError(f"{repo!r} has no revision {revision!r}; name a branch, tag or commit of it.") from None
        except RepositoryNotFoundError:
            raise ValueError(f"There is no {repo!r} on the Hub, or it needs a login: `hf auth login`.") from None
        except (_HTTP_ERROR, OSError) as error:
            return _cached_listing(repo, revision, error)
        return RepositoryListing(info.sha, {each.rfilename: each.size or 0 for each in info.siblings})

    def is_cached(self, repo: str, commit: str, path: str) -> bool:
        """Tell whether a file is in the cache already."""
        return isinstance(huggingface_hub.try_to_load_from_cache(repo, path, revision=commit), str)

    def download(self, repo: str, commit: str, paths: Sequence[str]) -> Path:
        """Fetch files into the cache; what was interrupted is resumed."""
        return Path(huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=list(paths)))

    def cache_folder(self) -> Path:
        """Return the cache's folder."""
        return Path(constants.HF_HUB_CACHE)


def _cached_listing(repo: str, revision: str | None, error: Exception) -> RepositoryListing:
    """List what the cache has of a repository, for the time without a network."""
    try:
        folder = Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        raise ValueError(
            f"The Hub cannot be reached for {repo!r} ({error}), and it is not cached; give a folder instead."
        ) from None
    files = [path for path in folder.rglob("*") if path.is_file()]
    return RepositoryListing(folder.name, {path.relative_to(folder).as_posix(): path.stat().st_size for path in files})


def is_hub_id(source: str) -> bool:
    """Tell whether a text has the form of a Hub id, `owner/name`.

    >>> is_hub_id("Lightricks/LTX-2"), is_hub_id("./LTX-2"), is_hub_id("LTX-2")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source) is not None
