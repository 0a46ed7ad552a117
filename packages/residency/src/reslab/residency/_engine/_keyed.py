"""A safetensors file whose keys are not the names that a module has for its weights.

    KeyedFile("model.safetensors", {"language_model.norm.weight": "model.language_model.norm.weight"})

It is a path wherever one is wanted. Libraries rename weights between releases, and a LoRA is published with names of
its own; the file stays as it is, and is read under the names that the module has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reslab.stages import freeze


@dataclass(frozen=True, slots=True)
class KeyedFile(os.PathLike[str]):
    """A file, and the module's names of what it holds.

    Attributes:
        path: The file.
        names: By key, the name of a parameter or buffer; what the file holds besides these is passed over.
    """

    path: str | os.PathLike[str]
    names: Mapping[str, str]

    def __post_init__(self) -> None:
        freeze(self)

    @property
    def name(self) -> str:
        """Return the file's own name."""
        return Path(self.path).name

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"KeyedFile({os.fspath(self.path)!r}, {len(self.names)} names)"
