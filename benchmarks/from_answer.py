"""From a survey's answer to a run: host and device memory of the plan, and what loading and running it really takes.

    python benchmarks/from_answer.py

A mid-size LTX-2.3 (427 MiB of random weights) is written to a folder, surveyed for a card and a host that cannot hold
it, loaded by the answer's plan and run, on the CPU, where device memory is host memory too. Measured is anonymous
memory beyond that of a process that has done the same with a tiny model. Beside it: the same, loaded whole. On two
cores, 2026-11-30: the plan says 176 MiB of host and 131 of the device; by it 121 MiB are loaded and 298 are held at
most, whole 425 and 545.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REQUEST = {"prompt": "a heron over a weir", "width": 128, "height": 64, "num_frames": 9, "seed": 7}
REQUEST |= {"num_inference_steps": 2, "max_sequence_length": 128}
MIB = 2**20


def main() -> None:
    """Survey, then load and run by the plan and whole, each in a process of its own."""
    from reslab import ltx2, residency

    with tempfile.TemporaryDirectory() as place:
        whole = ltx2.load("mid", variant="LTX-2.3")
        folder = ltx2.write(whole, Path(place) / "mid")
        rehearsal = residency.rehearse(ltx2.two_stage(whole), **REQUEST)
        rehearsal.save(Path(place) / "run.parquet")
        card = residency.device("small", like="RTX 4090", free="160 MiB", host_memory="200 MiB")
        answer = residency.survey(rehearsal, card)
        memory = answer.bounds.memory
        host = memory.pinned_bytes + memory.pageable_bytes
        (Path(place) / "plan.json").write_text(answer.plan.to_json())
        print(f"{answer.plan.name}: {host / MIB:.0f} MiB of host, {memory.peak_bytes / MIB:.0f} of the device")
        for way in ("plan", "whole"):
            loaded, peak = _child(way, str(folder), place)
            share = peak / (host + memory.peak_bytes)
            print(f"{way:>6}: {loaded / MIB:4.0f} MiB loaded, {peak / MIB:4.0f} at most, {share:.2f} of the plan")


def _child(*arguments: str) -> tuple[int, int]:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
    told = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    loaded, peak = json.loads(told.stdout.splitlines()[-1])
    return loaded, peak


def anonymous() -> int:
    """Return the bytes of this process that are no file's."""
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def child(way: str, folder: str, place: str) -> None:
    """Load and run, and print what that took."""
    from reslab import ltx2, residency

    def run(checkpoint, plan, **known):
        pipe = ltx2.two_stage(checkpoint)
        with residency.apply(pipe, plan, device="cpu", files=checkpoint.files, **known):
            pipe.run(**REQUEST)

    plan = residency.Plan.from_json((Path(place) / "plan.json").read_text())
    run(ltx2.load("tiny", variant="LTX-2.3"), residency.Plan.of({"transformer": "disk", "text_encoder": "swap"}))
    base, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous() - base)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    checkpoint = ltx2.load(folder, plan=plan if way == "plan" else None, progress=False)
    loaded = anonymous() - base
    known = residency.workload(residency.Rehearsal.load(Path(place) / "run.parquet"), plan)
    run(checkpoint, plan, known=known)
    done.set()
    watcher.join()
    print(json.dumps([loaded, peak[0]]))


if __name__ == "__main__":
    main() if len(sys.argv) == 1 else child(*sys.argv[1:])
