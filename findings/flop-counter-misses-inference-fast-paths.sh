#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts 0 FLOPs for nn.MultiheadAttention and nn.TransformerEncoderLayer in inference.
#
# Expected: the same count in training and in inference, since the products are the same: 2·m·n·k for each.
# Seen: in eval mode without gradients both modules call one fused operation of their own
# (_native_multi_head_attention, _transformer_encoder_layer_fwd), for which torch's counter has no formula: it counts 0
# and says nothing. In training mode, or with gradients, the same modules are counted. Whoever measures the FLOPs of an
# inference run, which is what one wants to know of a pipeline, gets a total that lacks these layers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.utils.flop_counter import FlopCounterMode

torch.set_num_threads(1)
print("torch", torch.__version__.split("+")[0])
x = torch.randn(2, 16, 64)


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)
layer = torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
calls = {"MultiheadAttention": lambda: attention(x, x, x), "TransformerEncoderLayer": lambda: layer(x)}
seen = {}
for name, call in calls.items():
    attention.train(), layer.train()
    training = flops(call)
    attention.eval(), layer.eval()
    with torch.no_grad():
        inference = flops(call)
    seen[name] = (training, inference)
    print(f"{name}: {training} FLOPs in training, {inference} in inference")
# projections alone, without the attention itself: 2 * 32 tokens * 64 * (3 * 64 + 64), and twice 2 * 32 * 64 * 128
assert seen["MultiheadAttention"][0] >= 2 * 32 * 64 * 256, seen
assert seen["TransformerEncoderLayer"][0] >= 2 * 32 * 64 * 256 + 2 * 2 * 32 * 64 * 128, seen
assert [inference for _, inference in seen.values()] == [0, 0], seen
PY
echo "as described"
