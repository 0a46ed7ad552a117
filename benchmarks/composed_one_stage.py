"""Compare composed LTX-2.3 with diffusers' own modular pipeline on the same tiny model.

Whole runs vary by several per cent here, so runs are interleaved (diffusers, ours, …) and each is compared with
the one before it; diffusers against itself stands beside it (A/A). Claim: not distinguishable from A/A, at most 1.03.

    python benchmarks/composed_one_stage.py [pairs]
"""

import gc
import os
import sys
from statistics import median, quantiles
from time import perf_counter

os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported: diffusers' bar belongs to a loop that cannot be reached


import torch
from diffusers.modular_pipelines.ltx2 import LTX2AutoBlocks

from reslab import ltx2

REQUEST = {"prompt": "a heron over a weir", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 4}


def main(pairs: int) -> None:
    """Run the pairs and print their ratios."""
    torch.set_num_threads(1)
    checkpoint = ltx2.load("tiny", variant="LTX-2.3")
    ours, theirs = our_run(checkpoint), their_run(checkpoint)
    assert torch.equal(ours(), theirs()), "the two do not do the same work"
    report("diffusers ÷ diffusers (A/A)", ratios(theirs, theirs, pairs))
    report("ours ÷ diffusers", ratios(ours, theirs, pairs))


def our_run(checkpoint):
    """Return a call that runs our pipeline and gives its latents."""
    pipe = ltx2.one_stage(checkpoint)
    pipe.result, pipe.progress = None, False
    return lambda: pipe.run(**REQUEST, seed=7).latents


def their_run(checkpoint):
    """Return a call that runs diffusers' modular pipeline on the same components and gives its latents."""
    pipe = LTX2AutoBlocks().init_pipeline()
    guiders = {name: ltx2.one_stage(checkpoint).components[name] for name in ("guider", "audio_guider")}
    parts = {name: part for name, part in checkpoint.components.items() if name != "latent_upsampler"}
    pipe.update_components(**parts, **guiders)

    def run():
        generator = torch.Generator().manual_seed(7)
        # frames as tensors: ours become bytes as well, which is part of our time
        return pipe(**REQUEST, generator=generator, use_cross_timestep=True, output_type="pt").get("latents")

    return run


def ratios(a, b, pairs: int) -> list[float]:
    """Time `a` and `b` in turn and return a ÷ b for each pair, without garbage collection in between."""
    gc.disable()
    found = []
    for _ in range(pairs):
        found.append(seconds(a) / seconds(b))
        gc.collect()
    gc.enable()
    return found


def seconds(call) -> float:
    """Return the seconds that one call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def report(what: str, found: list[float]) -> None:
    """Print the median and the quartiles."""
    low, _, high = quantiles(found, n=4)
    print(f"{what:28} median {median(found):.3f}   quartiles {low:.3f} to {high:.3f}   {len(found)} pairs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
