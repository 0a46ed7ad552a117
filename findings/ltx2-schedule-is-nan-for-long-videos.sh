#!/usr/bin/env bash
# diffusers 0.42.1: LTX-2's own schedule has no numbers for a video of more than about 55,000 tokens.
#
# Expected: an error, or sigmas that fall from 1 to 0.1, as at every smaller size.
# Seen: the shift grows with the tokens without a bound (exp(20) at 55,000). In float32 the shifted sigmas are then all 1,
# and stretching them to end at 0.1 divides 0 by 0: every sigma is NaN, and so is every latent, after all steps were
# paid for. 1920×1088 in one stage is 32,640 tokens at 121 frames, 55,080 at 209 and 63,240 at 241.
# Before that, from about 35,500 tokens, the first steps share the sigma 1: they are paid for and change nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import warnings

import diffusers
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

warnings.simplefilter("ignore")
print("diffusers", diffusers.__version__)
# scheduler/scheduler_config.json of Lightricks/LTX-2
released = dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1)
released |= dict(base_image_seq_len=1024, max_image_seq_len=4096)


def sigmas(frames, steps=30):
    tokens = ((frames - 1) // 8 + 1) * (1920 // 32) * (1088 // 32)
    scheduler = FlowMatchEulerDiscreteScheduler(**released)
    shift = 0.95 + (tokens - 1024) * (2.05 - 0.95) / (4096 - 1024)  # calculate_shift of pipeline_ltx2.py
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    print(f"{frames} frames, {tokens} tokens, shift {shift:.1f}: {scheduler.sigmas[0]:.4f} … {scheduler.sigmas[-2]:.4f}")
    return scheduler.sigmas.numpy()


short, flat, long = sigmas(121), sigmas(161), sigmas(241)
assert (np.diff(short) < 0).all()
assert flat[0] == flat[1] == 1.0
assert np.isnan(long[:-1]).all()
PY
echo "as described"
