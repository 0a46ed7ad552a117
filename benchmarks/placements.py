"""Which plan for the same memory: resident blocks or deeper prefetch, strided or leading; and what other tools do.

Published for an RTX 5090 at the same 24.47 GB: 16 blocks prefetched 56.12 s, 30 resident with one prefetched 36.68 s
(sglang #31538). Here a random transformer of 340 MB is called four times on one thread, over a link on which copying
every block takes twice what computing takes; the plans of the first table have room for six of its twelve blocks.

The second table has the schedules of other tools as plans, on the same link: what they copy back is left out, since
weights have not changed, and hooks by the layer are taken by the block, on which nothing is fetched ahead either. mmgp
needs CUDA, so it is not here. Every run's bytes are held to the plan's exactly, its peak to the plan's by 1 %.

    python benchmarks/placements.py
"""

from functools import partial

import midsize

from reslab.residency import Plan, footprint, layerwise, schedule, swap

ROUNDS, RATIO = 3, 2.0
SAME_MEMORY = {
    "prefetch 5": layerwise(prefetch=5),
    "4 resident and leading, prefetch 1": layerwise(resident=4, layout="leading"),
    "4 resident and strided, prefetch 1": layerwise(resident=4),
}
OTHER_TOOLS = {
    "diffusers group offload": layerwise(prefetch=0, until="each stage"),
    "diffusers group offload, streamed": layerwise(prefetch=1, until="each stage"),
    "accelerate sequential offload, by the block": layerwise(prefetch=0, until="each stage"),
    "diffusers model offload": swap(until="each stage"),
    "ours, 6 resident": layerwise(resident=6),
}


def main():
    """Print the tables."""
    bench = midsize.bench(ROUNDS)
    rate = bench.rate(RATIO)
    plans = {name: Plan.of({"transformer": each}) for name, each in {**SAME_MEMORY, **OTHER_TOOLS}.items()}
    best = midsize.fastest({name: partial(held, bench, plan, rate) for name, plan in plans.items()}, ROUNDS)
    for title, names in (("the same memory", SAME_MEMORY), ("other tools' schedules", OTHER_TOOLS)):
        print(f"\n| {title} | s | ÷ compute | MB moved | peak MB |\n|---|---:|---:|---:|---:|")
        for name in names:
            moved = schedule(plans[name], bench.known).moved_bytes() / 1e6
            peak = max(footprint(plans[name], bench.known).device_bytes.values()) / 1e6
            print(f"| {name} | {best[name]:.3f} | {best[name] / bench.compute_s:.3f} | {moved:.0f} | {peak:.0f} |")


def held(bench, plan, rate):
    """Return the seconds of a run, having held its bytes and its peak to the plan's."""
    took, moved, peak = bench.managed(plan, rate)
    assert moved == schedule(plan, bench.known).moved_bytes()
    assert peak <= 1.01 * max(footprint(plan, bench.known).device_bytes.values())
    return took


if __name__ == "__main__":
    main()
