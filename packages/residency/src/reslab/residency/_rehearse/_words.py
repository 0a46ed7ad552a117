"""A tokenizer without a vocabulary: each word, sign and special token is one token, numbered by its hash.

It stands in for a model's own where only the number of tokens matters: prompts are padded to one length, or are about
as long as they have words.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import torch
from transformers import BatchEncoding

_TOKEN = re.compile(r"<\|?\w+\|?>|\w+|[^\w\s]|\n")
#: Numbers below are kept for padding, end and the like.
_RESERVED = 8


class WordTokenizer:
    """Turn text into numbers below `vocab_size`; called as the tokenizers of transformers are.

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
        """Return `input_ids` and `attention_mask`, padded and cut as asked."""
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
        """Cut text into words, signs and special tokens."""
        return _TOKEN.findall(text)

    def _ids(self, text: str) -> list[int]:
        span = self.vocab_size - _RESERVED
        return [_RESERVED + zlib.crc32(word.encode()) % span for word in self.tokenize(text)] + [self.eos_token_id]

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """Return nothing: what a prompt was cut short by is not known."""
        return ["" for _row in rows]
