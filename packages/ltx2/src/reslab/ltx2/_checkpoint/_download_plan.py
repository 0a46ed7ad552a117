"""A download as data: its files, its size, and whether disk and memory suffice. It is printed before a byte is fetched.

plan = DownloadPlan(source=…, files=…, …)
plan               # one line; in a notebook a table
plan.check()       # raises where disk or memory do not suffice
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from reslab.profiler import gib
from reslab.stages.support import html_table

# The control group (version 2) that limits a container's memory; Linux only.
_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """Describe one file to fetch."""

    repo: str
    commit: str
    path: str
    nbytes: int
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadPlan:
    """Hold the files to fetch and the free memory and disk; all sizes in bytes."""

    source: str
    commit: str
    variant: str
    files: tuple[FetchedFile, ...] = field(repr=False)
    free_disk_bytes: int  # of the disk for downloads
    host_memory_bytes: int  # for the loaded weights; on an accelerator, for the largest component
    free_host_bytes: int
    by_plan: bool = False  # whether a plan chooses the weights to load

    @property
    def fetch_bytes(self) -> int:
        """Return the bytes to fetch: those of files that are not on this machine."""
        return sum(file.nbytes for file in self.files if not file.cached)

    @property
    def cached_bytes(self) -> int:
        """Return the bytes of files that are on this machine."""
        return sum(file.nbytes for file in self.files if file.cached)

    def problems(self) -> list[str]:
        """Return a sentence for each resource that does not suffice."""
        found = []
        if self.fetch_bytes > self.free_disk_bytes:
            need, free = gib(self.fetch_bytes), gib(self.free_disk_bytes)
            found.append(f"The disk does not suffice: {need} to fetch, {free} free.")
        if short := too_little_host(self.host_memory_bytes, self.free_host_bytes, by_plan=self.by_plan):
            found.append(short)
        return found

    def check(self) -> None:
        """Check disk and memory; a ValueError names what does not suffice."""
        if problems := self.problems():
            reasons = " ".join(problems)
            raise ValueError(f"{reasons} Nothing was fetched of {self.source!r}; free some, or load elsewhere.")

    def text(self) -> str:
        """Return the plan as lines of text."""
        return "\n".join([repr(self), *(f"  {name:<24}{value}" for name, value in self._rows())])

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("to fetch", gib(self.fetch_bytes)),
            ("cached", gib(self.cached_bytes)),
            ("free disk", gib(self.free_disk_bytes)),
            ("host memory after loading", gib(self.host_memory_bytes)),
            ("free host memory", gib(self.free_host_bytes)),
        ]

    def __repr__(self) -> str:
        commit = self.commit[:7]
        return f"DownloadPlan({self.variant} from {self.source!r} at {commit}: {gib(self.fetch_bytes)} to fetch)"

    def _repr_html_(self) -> str:
        return html_table((), self._rows(), caption=repr(self))


def too_little_host(need_bytes: int, free_bytes: int, *, by_plan: bool) -> str | None:
    """Return a sentence that host memory does not suffice, with a way to need less; None where it suffices.

    >>> too_little_host(3 * 2**30, 2**30, by_plan=True)
    'Host memory does not suffice: 3.00 GiB after loading, 1.00 GiB free; let the plan have more on disk.'

    Args:
        need_bytes: The host memory that loading needs.
        free_bytes: The free host memory.
        by_plan: Whether a plan chooses the weights to load.
    """
    if need_bytes <= free_bytes:
        return None
    less = (
        "let the plan have more on disk"
        if by_plan
        else "leave weights on disk by a plan: load(..., plan=residency.survey(rehearsal, card).plan)"
    )
    return f"Host memory does not suffice: {gib(need_bytes)} after loading, {gib(free_bytes)} free; {less}."


def free_disk_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that holds a folder, or will hold it."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def free_host_bytes() -> int:
    """Return the host memory that this process can still take, within its container's limit."""
    available = psutil.virtual_memory().available
    limit, used = _GROUP / "memory.max", _GROUP / "memory.current"
    if limit.is_file() and limit.read_text().strip() != "max":
        return min(available, max(0, int(limit.read_text()) - int(used.read_text())))
    return available
