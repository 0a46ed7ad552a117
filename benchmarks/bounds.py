"""What asking costs: `bounds` ≤ 2 ms a plan; and the bytes of one video, the LoRA apart.

A guided two-stage run of LTX-2.3 at 1536×1024 with 121 frames, every preset on an H100; the first call for a rehearsal
and device, which reads the rehearsal, stands apart. Bytes: diffusers' documented recipe, which encodes the prompt
twice, under model offload 131 GiB in and 131 out; ours at most 67 in and 0 out.

    python benchmarks/bounds.py [calls]
"""

import sys
from statistics import median
from time import perf_counter

from reslab import ltx2, residency

GIB = 2**30


def main(calls: int) -> None:
    """Time each preset and print the bytes."""
    run = ltx2.rehearsal("LTX-2.3", width=1536, height=1024, num_frames=121)
    card = residency.device("H100")
    slowest = max(report(name, run, card, calls) for name in residency.presets())
    plan = residency.preset("diffusers group offload", run)
    work = residency.workload(run, plan)
    print(f"{'the order of moves of the longest':34} {timed(lambda: residency.schedule(plan, work), 3)[1]:8.2f} ms")
    theirs, ours = bytes_of_a_video(run)
    for whose, (gib_in, gib_out) in {"documented recipe, model offload": theirs, "ours": ours}.items():
        print(f"{whose:34} {gib_in:8.2f} GiB in, {gib_out:.2f} out")
    assert slowest <= 2, f"bounds took {slowest:.2f} ms"
    assert theirs[0] > 130
    assert ours[0] <= 67
    assert ours[1] == 0


def report(name: str, run, card, calls: int) -> float:
    """Print what bounding a preset takes, and return its median in milliseconds."""
    plan = residency.preset(name, run)
    first, best, middle = timed(lambda: residency.bounds(run, plan, card), calls)
    print(f"{name:34} first {first:8.2f} ms, then {best:5.2f} at best, {middle:5.2f} median")
    return middle


def timed(call, calls: int) -> tuple[float, float, float]:
    """Return the first, the shortest and the median time of a call in milliseconds."""
    times = []
    for _ in range(calls):
        start = perf_counter()
        call()
        times.append((perf_counter() - start) * 1e3)
    return times[0], min(times), median(times)


def bytes_of_a_video(run) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return GiB in and out of diffusers' documented recipe and of ours, without the LoRA."""
    recipe = ltx2.documented_recipe(residency.workload(run, residency.Plan.of({"lora": "merged"})))
    theirs = moved(residency.preset("diffusers model offload", recipe), recipe)
    work = residency.workload(run)
    gib_in, gib_out = moved(residency.preset("swap", work), work)
    return theirs, (gib_in - run.components["lora_bytes"].sum() / GIB, gib_out)


def moved(plan, work) -> tuple[float, float]:
    """Return GiB to the device and back of one run."""
    rows = residency.footprint(plan, work)
    return sum(row.fetched_bytes for row in rows) / GIB, sum(row.copied_back_bytes for row in rows) / GIB


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
