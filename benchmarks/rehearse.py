"""What rehearsing 22 B parameters takes: a guided two-stage run of LTX-2.3 ≤ 3 s and ≤ 1 GiB, a second size ≤ 2 s.

The run is 1536×1024 with 121 frames, all components, after imports; the memory is the growth of the process's peak
while composing and rehearsing. Beside it torch's own MemTracker on fake tensors: one forward of the transformer with 4
of its 48 blocks, against our rehearsal of the same forward, with the same peak. Activations by 1000 tokens are held to
the published 0.1364 GiB.

    python benchmarks/rehearse.py
"""

import platform
import resource
import sys
from contextlib import contextmanager
from time import perf_counter, process_time

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from reslab import ltx2
from reslab.ltx2._checkpoint._configs import config
from reslab.residency import parameters_to_meta, rehearse, weightless
from reslab.stages import Pipeline, Stage

GIB = 2**30
PUBLISHED = 0.1364  # GiB of activations by 1000 tokens: facts of the project, a difference of two published peaks
MAIN = {"prompt": "a heron over a weir", "width": 1536, "height": 1024, "num_frames": 121}
SECOND = MAIN | {"width": 1920, "height": 1088}
LAYERS = 4


def main() -> None:
    """Rehearse, compare and print."""
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    forward(two_stage_run())
    against_memtracker()


def two_stage_run():
    """Rehearse the whole pipeline at two sizes."""
    before = peak_bytes()
    with timed("blank and compose, 22 B parameters and their LoRA"):
        pipe = ltx2.two_stage(ltx2.blank("LTX-2.3"))
    with timed("rehearse 1536×1024×121, guided, two stages (≤ 3 s)"):
        rehearsal = rehearse(pipe, **MAIN)
    with timed("a second size, 1920×1088×121 (≤ 2 s)"):
        rehearse(pipe, **SECOND)
    print(f"  peak memory of the process grew by {(peak_bytes() - before) / GIB:.2f} GiB (≤ 1 GiB)")
    print(f"  {rehearsal!r}")
    return rehearsal


def forward(rehearsal) -> None:
    """Say what the refining forward keeps alive, by 1000 tokens of video and sound."""
    last = rehearsal.calls.drop_nulls("merged_trace").row(0, named=True)
    trace = rehearsal.traces.row(last["merged_trace"], named=True)
    by_thousand = trace["activation_peak_bytes"] / GIB / ((24576 + 126) / 1000)
    print(f"  a forward: {trace['flops'] / 1e12:.1f} TFLOP, {trace['host_operations']} operations", end="; ")
    print(f"activations {by_thousand:.4f} GiB by 1000 tokens, {by_thousand / PUBLISHED - 1:+.1%} of the published")


class Forward(Stage):
    """One forward of a transformer."""

    components = ("transformer",)
    writes = ()

    def run(self, transformer, inputs):
        """Call it."""
        transformer(**inputs)


def against_memtracker() -> None:
    """Time the same forward under torch's MemTracker and under ours, and compare their peaks."""
    released = config("LTX-2.3", "transformer") | {"num_layers": LAYERS}
    theirs, peak = memtracker(released)
    with weightless(torch.bfloat16):
        model = diffusers.LTX2VideoTransformer3DModel(**released)
    pipe = Pipeline({"transformer": parameters_to_meta(model)}).add(Forward)
    start = perf_counter()
    rehearsal = rehearse(pipe, inputs=inputs("meta"))
    ours = perf_counter() - start
    own = rehearsal.traces["activation_peak_bytes"][0]
    print(f"one forward, {LAYERS} of 48 blocks: MemTracker {theirs:.2f} s, ours {ours:.2f} s ({theirs / ours:.0f}×)")
    print(f"  peak above the weights: MemTracker {peak / GIB:.3f} GiB, ours {own / GIB:.3f} GiB")


def memtracker(released):
    """Track one forward on fake tensors; return its seconds and the peak above weights and inputs."""
    before = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        torch.set_default_dtype(torch.bfloat16)
        model, given = diffusers.LTX2VideoTransformer3DModel(**released), inputs("cpu")
        torch.set_default_dtype(before)
        tracker = MemTracker()
        tracker.track_external(model)
        held = tracker.get_tracker_snapshot("current")[torch.device("cpu")]["Total"]
        start = perf_counter()
        with tracker:
            model(**given)
        seconds = perf_counter() - start
        return seconds, tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - held


def inputs(device: str):
    """The arguments of a forward at 1536×1024×121."""
    shapes = {
        "hidden_states": (1, 24576, 128),
        "audio_hidden_states": (1, 126, 128),
        "encoder_hidden_states": (1, 1024, 4096),
        "audio_encoder_hidden_states": (1, 1024, 2048),
    }
    made = {name: torch.empty(shape, dtype=torch.bfloat16, device=device) for name, shape in shapes.items()}
    times = {name: torch.empty(1, device=device) for name in ("timestep", "sigma")}
    sizes = {"num_frames": 16, "height": 32, "width": 48, "fps": 24.0, "audio_num_frames": 126}
    return made | times | sizes | {"use_cross_timestep": True}


def peak_bytes() -> int:
    """The most memory that the process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def timed(what: str):
    """Print the seconds that a block took, and those of the processor."""
    wall, cpu = perf_counter(), process_time()
    yield
    print(f"{what}: {perf_counter() - wall:.2f} s ({process_time() - cpu:.2f} s of processor time)")


if __name__ == "__main__":
    main()
