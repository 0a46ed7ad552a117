"""A real Gemma tokenizer of 261 entries, for models that were never trained.

Gemma's tokenizer falls back to bytes where its vocabulary has no entry. One that has nothing but the five special
tokens and the 256 bytes therefore encodes every text, without a file and without a download.

    tokenizer = byte_tokenizer()
    tokenizer("weir").input_ids       # four bytes
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import GemmaTokenizer

from reslab.ltx2._files import read_json

MAX_LENGTH = 256  # two rounds of the 128 registers; a byte is a token, three a space
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # ids 0 to 4, as in Gemma
_VOCABULARIES = ("tokenizer.json", "tokenizer.model")
# Rows of a text encoder without a token: tables are padded to multiples; Gemma 3 has 262,145 tokens, 262,208 rows.
_MOST_PADDING = 128


def byte_tokenizer() -> GemmaTokenizer:
    """Build a `GemmaTokenizer` with 5 special tokens and 256 byte tokens.

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("weir").input_ids, tokenizer.decode([124, 106, 110, 119])
    ([124, 106, 110, 119], 'weir')
    """
    tokens = (*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], padding_side="left", model_max_length=MAX_LENGTH)


def require_vocabulary(names: Iterable[str]) -> None:
    """Check that a tokenizer's folder has a vocabulary: without one every prompt would be the same few tokens.

    >>> require_vocabulary(["tokenizer_config.json", "tokenizer.json"])

    A ValueError says what is missing.
    """
    if set(_VOCABULARIES).isdisjoint(names):
        raise ValueError(f"tokenizer has neither {' nor '.join(_VOCABULARIES)}; download the checkpoint again.")


def check_tokenizer_files(folder: Path) -> None:
    """Check that a tokenizer's folder has a vocabulary and sound JSON files; a ValueError names what is not."""
    require_vocabulary(path.name for path in folder.iterdir())
    for file in sorted(folder.glob("*.json")):
        read_json(file, f"{folder.name}/{file.name}")


def read_tokenizer(folder: Path) -> GemmaTokenizer:
    """Read a tokenizer from its folder; a ValueError names the file that is damaged."""
    try:
        return GemmaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself
        found = next(name for name in _VOCABULARIES if (folder / name).is_file())
        raise ValueError(f"{folder.name}/{found} is damaged ({error}); download it again.") from None


def check_vocabulary(tokenizer: GemmaTokenizer, rows: int) -> None:
    """Check that a tokenizer's ids are rows of the text encoder's table, and that they fill it but for padding.

    >>> check_vocabulary(byte_tokenizer(), 264)

    A ValueError gives both numbers.
    """
    if not rows - _MOST_PADDING < len(tokenizer) <= rows:
        raise ValueError(
            f"tokenizer has {len(tokenizer):,} tokens, which do not fit the text encoder's table of {rows:,} rows; "
            "use the tokenizer that was published with the text encoder."
        )
