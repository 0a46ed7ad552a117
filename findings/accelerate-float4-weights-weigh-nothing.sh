#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0: parameters of torch.float4_e2m1fn_x2 weigh 0 bytes, so any device has room for them.
#
# Expected: one byte an element (torch says itemsize 1: two 4-bit values in each), or an error for a type it does not know.
# Seen: dtype_byte_size reads the digits at the end of the type's name, finds the "2" of "_x2", and returns 2 // 8 = 0.
# compute_module_sizes then reports 0 for such a model, and infer_auto_device_map puts all of it on a device that has
# one thousandth of the room. A bool, which takes a byte, is an eighth of one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
"$folder/venv/bin/python" - <<'PY'
import accelerate
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import compute_module_sizes
from accelerate.utils.modeling import dtype_byte_size

print("accelerate", accelerate.__version__, "torch", torch.__version__.split("+")[0])


def layer(dtype):
    made = torch.nn.Linear(1024, 1024, bias=False)
    made.weight = torch.nn.Parameter(torch.zeros(1024, 1024, dtype=torch.uint8).view(dtype), requires_grad=False)
    return made


model = torch.nn.Sequential(layer(torch.float4_e2m1fn_x2), layer(torch.float4_e2m1fn_x2))
really = sum(weight.nbytes for weight in model.parameters())
said = compute_module_sizes(model)[""]
placed = infer_auto_device_map(model, max_memory={0: really // 1000, "cpu": "1GB"})
print(f"float4_e2m1fn_x2: {dtype_byte_size(torch.float4_e2m1fn_x2)} bytes said, {torch.float4_e2m1fn_x2.itemsize} really")
print(f"bool: {dtype_byte_size(torch.bool)} bytes said, {torch.bool.itemsize} really")
print(f"model: {said} bytes said, {really} really; with room for {really // 1000} bytes on device 0: {dict(placed)}")
same = torch.nn.Sequential(layer(torch.float8_e4m3fn), layer(torch.float8_e4m3fn))
beside = infer_auto_device_map(same, max_memory={0: really // 1000, "cpu": "1GB"})
print(f"the same bytes as float8_e4m3fn: {compute_module_sizes(same)['']} said, {dict(beside)}")
assert (said, really, dict(placed)) == (0, 2 * 1024 * 1024, {"": 0}), (said, really, placed)
roomy = infer_auto_device_map(same, max_memory={0: 2 * really, "cpu": "1GB"})
print(f"and with room for twice the bytes on device 0: {dict(roomy)}")
assert dict(roomy) == {"": 0}, roomy
assert 0 not in beside.values() and compute_module_sizes(same)[""] == really
assert dtype_byte_size(torch.bool) == 1 / 8
PY
echo "as described"
