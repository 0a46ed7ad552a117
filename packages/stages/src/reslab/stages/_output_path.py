"""The path of a file to save: its ending must match the format, and its folders are made.

output_path("new/folder/run.json.gz", "a trace", ".json", ".json.gz")
"""

from __future__ import annotations

import os
from pathlib import Path


def output_path(path: str | os.PathLike[str], what: str, *endings: str) -> Path:
    """Return a path to write to: make its folder, and refuse the ending of another format.

    >>> output_path("run.csv", "a profile", ".parquet")
    Traceback (most recent call last):
    ValueError: a profile is saved as .parquet, got 'run.csv'; save it as 'run.parquet'

    Args:
        path: The path that the user gave.
        what: The name of what is saved, for the error.
        endings: The endings that its name may have, in any capitals; "" allows a name without an ending.

    Raises:
        ValueError: The name has another ending, or a file has the name of a folder on the way.
    """
    target = Path(path)
    name = target.name.casefold()
    if not any(name.endswith(ending) if ending else not target.suffix for ending in endings):
        named = [ending for ending in endings if ending]
        better = target.name.removesuffix("".join(target.suffixes[-1:])) + named[0]
        listed = " or ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
        raise ValueError(f"{what} is saved as {listed}, got {target.name!r}; save it as {better!r}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{what} cannot be saved in {str(target.parent)!r}: a file has that name") from None
    return target
