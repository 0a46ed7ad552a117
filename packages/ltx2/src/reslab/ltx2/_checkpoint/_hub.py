"""The interface to the Hugging Face Hub, and the client that implements it.

    hub = HuggingFaceHub()
    hub.listing("Lightricks/LTX-2", None).sizes["model_index.json"]      # bytes

Tests use a `Hub` of their own. Without a network the client answers from the cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

# The base class of the HTTP client's errors, which differs between versions of huggingface_hub: without a network the
# client's own errors come through.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


class RepositoryListing(NamedTuple):
    """List the files of a repository at one commit, with their bytes."""

    commit: str
    sizes: Mapping[str, int]


@runtime_checkable
class Hub(Protocol):
    """Provide the files of repositories; `load(..., hub=hub)` takes any object with these methods."""

    def listing(self, repo: str, revision: str | None) -> RepositoryListing:
        """List the files of a repository; a ValueError says that it does not exist or needs a login."""
        ...

    def is_cached(self, repo: str, commit: str, path: str) -> bool:
        """Tell whether a file is on this machine."""
        ...

    def download(self, repo: str, commit: str, paths: Sequence[str]) -> Path:
        """Fetch files, and return the folder that holds them under their paths."""
        ...

    def cache_folder(self) -> Path:
        """Return the folder for downloads; it need not exist yet."""
        ...


class HuggingFaceHub:
    """Fetch from the Hugging Face Hub through `huggingface_hub` and its cache."""

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
        """Tell whether a file is in the cache."""
        return isinstance(huggingface_hub.try_to_load_from_cache(repo, path, revision=commit), str)

    def download(self, repo: str, commit: str, paths: Sequence[str]) -> Path:
        """Fetch files into the cache, resuming interrupted downloads."""
        return Path(huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=list(paths)))

    def cache_folder(self) -> Path:
        """Return the cache's folder."""
        return Path(constants.HF_HUB_CACHE)


def _cached_listing(repo: str, revision: str | None, error: Exception) -> RepositoryListing:
    """List the cached files of a repository, where the network fails."""
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
