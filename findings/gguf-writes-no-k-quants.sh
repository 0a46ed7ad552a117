#!/usr/bin/env bash
# gguf 0.19.0 (the Python package): reads every K and IQ type, writes none of them, and the error is empty.
#
# Expected: quants.quantize makes the types that quants.dequantize reads, Q4_K above all: Q4_K_M is what people download.
# Seen: of the 14 K and IQ types with a reader none has a writer; quantize raises NotImplementedError with no text.
# What it writes: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0, MXFP4. So a test file in Q4_K has to be
# packed by hand, or by llama.cpp's own program.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata

import gguf
import numpy as np

print("gguf", importlib.metadata.version("gguf"))
weights = np.linspace(-1, 1, 2 * 512, dtype=np.float32).reshape(2, 512)
written, read_only = [], []
for kind in gguf.GGMLQuantizationType:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.quants.quantize(weights, kind)
        written.append(kind.name)
    except NotImplementedError as error:
        try:  # zeros are a valid block of each type
            gguf.quants.dequantize(np.zeros((2, 512 // block * size), np.uint8), kind)
        except (NotImplementedError, ValueError):
            continue
        read_only.append((kind.name, str(error)))
print("written:", *written)
print("only read:", *(name for name, _ in read_only))
print("what quantize says of Q4_K:", repr(dict(read_only)["Q4_K"]))
assert written == "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 BF16 TQ1_0 TQ2_0 MXFP4".split(), written
assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"} <= dict(read_only).keys()
assert not any(text for _, text in read_only), read_only
PY
echo "as described"
