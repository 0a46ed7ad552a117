"""The values that stages hand to each other, by name.

A run starts from `Values`, stages read and write them, and `Pipeline.run` returns them: a mapping with attribute access
and Tab completion, whose text form shows types and shapes in place of numbers.

A value may carry a tag. Modular Diffusers gathers some of a block's inputs by tag rather than by name (its
`kwargs_type`, for example "denoiser_input_fields").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from reslab.stages._names import nearest


class Values(MutableMapping[str, Any]):
    """Values by name, in the order in which they were first written.

    >>> values = Values({"width": 128, "height": 64})
    >>> values["num_frames"] = 9
    >>> values.width, list(values)
    (128, ['width', 'height', 'num_frames'])
    >>> values
    Values(width=128, height=64, num_frames=9)
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = dict(values or {})
        self._tags: dict[str, str] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(f"no value named {name!r}; {nearest(name, self._values)}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name, or `default`."""
        return self._values.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        self._tags.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def tag(self, name: str, tag: str) -> None:
        """Mark a value with the tag under which it is gathered."""
        self._tags[name] = tag

    def tagged(self, tag: str) -> dict[str, Any]:
        """Return the values marked with `tag`."""
        return {name: self._values[name] for name, its in self._tags.items() if its == tag}

    def copy(self) -> Values:
        """Copy the names and tags; the values themselves are shared."""
        other = Values(self._values)
        other._tags = dict(self._tags)
        return other

    def restore(self, kept: Values) -> None:
        """Restore the names, values and tags of `kept`, in place."""
        self._values, self._tags = dict(kept._values), dict(kept._tags)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(
                f"no value named {name!r}; there are: {', '.join(self.__dict__.get('_values', ()))}"
            ) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self._values if name.isidentifier())]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._values)

    def __repr__(self) -> str:
        return "Values(" + ", ".join(f"{name}={short_text(value)}" for name, value in self._values.items()) + ")"


def short_text(value: Any) -> str:
    """Return a few words for a value, the same on every run: its shape or size in place of its numbers.

    >>> short_text(3), short_text("a heron over a weir"), short_text([1, 2, 3]), short_text(object())
    ('3', "'a heron over a weir'", 'list of 3', 'object')
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        sides = "×".join(str(side) for side in shape) + (", " if len(shape) else "")
        return f"{type(value).__name__}({sides}{str(dtype).removeprefix('torch.')})"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    if isinstance(value, (list, tuple, dict, set)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
