"""A real Gemma tokenizer of 261 entries, for models that were never trained.

Gemma's tokenizer falls back to bytes where its vocabulary has no entry. One that has nothing but the five special
tokens and the 256 bytes therefore encodes every text, without a file and without a download.

    tokenizer = byte_tokenizer()
    tokenizer("weir").input_ids       # four bytes
"""

from __future__ import annotations

from transformers import GemmaTokenizer

MAX_LENGTH = 256  # two rounds of the 128 registers; a byte is a token, three a space
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # ids 0 to 4, as in Gemma


def byte_tokenizer() -> GemmaTokenizer:
    """Build a `GemmaTokenizer` with 5 special tokens and 256 byte tokens.

    >>> tokenizer = byte_tokenizer()
    >>> tokenizer("weir").input_ids, tokenizer.decode([124, 106, 110, 119])
    ([124, 106, 110, 119], 'weir')
    """
    tokens = (*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], padding_side="left", model_max_length=MAX_LENGTH)
