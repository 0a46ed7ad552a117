"""Stock diffusers pipelines at full size without weights, from public configurations.

    pipeline = blank("FLUX.1-dev")                   # or a folder in diffusers' layout, with or without weights
    rehearse(pipeline, prompt="a heron over a weir", width=1024, height=1024, num_inference_steps=28)

Configurations of some models ship as data, each with its source and the number of parameters that it must have. Their
tokenizers are replaced by `WordTokenizer`, since vocabularies are not configuration; a folder has its own tokenizers.

`WordTokenizer` has no vocabulary: each word, sign and special token is one token, numbered by its hash. That is enough
for a rehearsal, in which only the number of tokens matters: prompts are padded to one length, or have about as many
tokens as words.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import torch
from transformers import BatchEncoding

from reslab.residency._rehearse._failures import RehearsalError
from reslab.residency._rehearse._weightless import parameters_to_meta, weightless
from reslab.stages import Pipeline

_PACKAGE, _FOLDER = "reslab.residency", "_rehearse/configs"


def blanks() -> list[str]:
    """Return the names of the models whose configurations ship.

    >>> blanks()
    ['FLUX.1-dev', 'Qwen-Image', 'SDXL', 'Wan2.2-T2V-A14B']
    """
    return sorted(_shipped())


def blank(model: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Pipeline:
    """Build a stock diffusers pipeline at its released size, its weights on meta.

    Args:
        model: One of `blanks()`, or a folder with a model_index.json and a configuration for each component.
        dtype: The type of the weights; by default the one that the model is run with, bfloat16 for a folder.

    Returns:
        A pipeline made by `Pipeline.from_diffusers`; its request is what the stock pipeline takes.

    Raises:
        RehearsalError: There is no such model or folder, or a model's parameters are not as many as released.
    """
    shipped = _shipped()
    if Path(model).is_dir():
        return _from_folder(Path(model), dtype or torch.bfloat16)
    names = {name.casefold(): name for name in shipped}
    if str(model).casefold() not in names:
        nearest = difflib.get_close_matches(str(model).casefold(), names, n=1, cutoff=0)[0]
        raise RehearsalError(
            f"there is no configuration of {str(model)!r} and no such folder. The nearest is {names[nearest]!r}; there "
            f"are {', '.join(map(repr, sorted(shipped)))}."
        )
    return _from_config(shipped[names[str(model).casefold()]], dtype)


def _shipped() -> dict[str, dict[str, Any]]:
    folder = resources.files(_PACKAGE).joinpath(_FOLDER)
    read = (json.loads(file.read_text(encoding="utf-8")) for file in folder.iterdir() if file.name.endswith(".json"))
    return {config["name"]: config for config in read}


def _from_config(config: Mapping[str, Any], dtype: torch.dtype | None) -> Pipeline:
    own = dtype or getattr(torch, config["dtype"])
    parts = {name: _part(name, part, own) for name, part in config["components"].items()}
    pipe = _class("diffusers", config["pipeline"])(**parts, **config["arguments"])
    return _composed(pipe, config["name"])


def _part(name: str, part: Mapping[str, Any], dtype: torch.dtype) -> Any:
    if "tokenizer" in part:
        return WordTokenizer(**part["tokenizer"])
    made = _made(_find(part["class"]), part["config"], dtype)
    counted = sum(weight.numel() for weight in made.parameters()) if part["parameters"] else 0
    if counted != part["parameters"]:
        raise RehearsalError(
            f"the {name} has {counted:,} parameters where the released one has {part['parameters']:,}; the installed "
            f"{part['class']} is not the one that the configuration was made for"
        )
    return made


def _made(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Return a module, or a scheduler, made of a configuration."""
    if not issubclass(kind, torch.nn.Module):
        return kind.from_config(dict(config))
    with weightless():
        if hasattr(kind, "config_class"):
            module = kind(kind.config_class(**config))
        else:
            module = kind(**{name: value for name, value in config.items() if not name.startswith("_")})
    return _converted(parameters_to_meta(module.eval()), dtype)


def _converted(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Convert the weights, except those that diffusers keeps in float32 when it loads the model."""
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    diffusers_own = type(module).__module__.startswith("diffusers.")
    for path, weight in module.named_parameters():
        if weight.is_floating_point() and not (diffusers_own and kept & set(path.split("."))):
            weight.data = weight.data.to(dtype)
    return module


def _from_folder(folder: Path, dtype: torch.dtype) -> Pipeline:
    """Build the components that a model_index.json lists; schedulers and tokenizers are loaded from their files."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise RehearsalError(f"{str(folder)!r} has no model_index.json: it is not a pipeline in diffusers' layout")
    listed = json.loads(index.read_text(encoding="utf-8"))
    parts: dict[str, Any] = {}
    for name, value in listed.items():
        if isinstance(value, list) and None not in value:
            library, kind = value
            parts[name] = _from_subfolder(folder / name, _class(library, kind), dtype)
    given = {name: value for name, value in listed.items() if not name.startswith("_") and not isinstance(value, list)}
    return _composed(_class("diffusers", listed["_class_name"])(**parts, **given), folder.name)


def _from_subfolder(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    if not issubclass(kind, torch.nn.Module):
        return kind.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _made(kind, config, dtype)


def _find(name: str) -> Any:
    return next(
        found for library in ("diffusers", "transformers") if (found := _class(library, name, None)) is not None
    )


def _class(library: str, name: str, *default: Any) -> Any:
    """Return a class of diffusers or transformers, or of a pipeline's own folder in diffusers, such as "ltx2"."""
    module = library if library in ("diffusers", "transformers") else f"diffusers.pipelines.{library}"
    with _quiet_transformers():
        return getattr(import_module(module), name, *default)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers within the block."""
    # transformers 5.23 warns that torchvision is missing when diffusers imports image processors; none is used here
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _composed(pipe: Any, name: str) -> Pipeline:
    pipe.set_progress_bar_config(disable=True)
    pipeline = Pipeline.from_diffusers(pipe)
    pipeline.name = name
    return pipeline


_TOKEN = re.compile(r"<\|?\w+\|?>|\w+|[^\w\s]|\n")
#: Token numbers below this one are reserved for padding, end and the like.
_RESERVED = 8


class WordTokenizer:
    """A tokenizer without a vocabulary, called as those of transformers are; numbers are below `vocab_size`.

    >>> WordTokenizer(vocab_size=1000, model_max_length=6)("a heron over a weir", padding="max_length").attention_mask
    [[1, 1, 1, 1, 1, 1]]
    """

    padding_side = "right"
    pad_token_id, eos_token_id = 0, 1
    added_tokens_encoder: dict[str, int] = {}  # noqa: RUF012  no textual inversions

    def __init__(self, *, vocab_size: int, model_max_length: int) -> None:
        self.vocab_size, self.model_max_length = vocab_size, model_max_length

    def __call__(
        self,
        text: str | list[str],
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchEncoding:
        """Return `input_ids` and `attention_mask`, padded and truncated by the arguments."""
        rows = [self._ids(each) for each in ([text] if isinstance(text, str) else text)]
        longest = max_length or self.model_max_length
        if truncation:
            rows = [row[:longest] for row in rows]
        width = longest if padding == "max_length" else max(map(len, rows)) if padding else 0
        ids = [row + [self.pad_token_id] * (width - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        values: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if return_tensors == "pt":
            values = {name: torch.tensor(each) for name, each in values.items()}
        return BatchEncoding(values)

    def tokenize(self, text: str) -> list[str]:
        """Split text into words, signs and special tokens."""
        return _TOKEN.findall(text)

    def _ids(self, text: str) -> list[int]:
        span = self.vocab_size - _RESERVED
        return [_RESERVED + zlib.crc32(word.encode()) % span for word in self.tokenize(text)] + [self.eos_token_id]

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """Return empty texts: numbers made by hashing cannot be decoded."""
        return ["" for _row in rows]
