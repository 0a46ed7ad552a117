"""Where something is saved: the name's ending says the format, and folders on the way are made.

output_path("new/folder/run.json.gz", "a trace", ".json", ".json.gz")
"""

from __future__ import annotations

import os
from pathlib import Path


def output_path(path: str | os.PathLike[str], what: str, *endings: str) -> Path:
    """Return a path that can be written to: its folder is there, and its name promises none but these formats.

    >>> output_path("run.csv", "a profile", ".parquet")
    Traceback (most recent call last):
    ValueError: a profile is saved as .parquet, got 'run.csv'; save it as 'run.parquet'

    Args:
        path: Where to save.
        what: What is saved, for the error.
        endings: What its name may end in, whatever its capitals; "" allows a name without an ending.

    Raises:
        ValueError: Its name ends in something else, or a file is where a folder has to be.
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
