"""How long importing reslab.stages takes: under 0.1 s, since it loads neither torch nor diffusers.

A fresh interpreter imports it, another imports nothing, in turns; each is told by its fastest start. The A/A row is an
interpreter that imports nothing measured twice.

    python benchmarks/stages_import.py
"""

import platform
import subprocess
import sys
import time

STARTS = 20
WAYS = {"nothing": "pass", "nothing, again (A/A)": "pass", "reslab.stages": "import reslab.stages"}


def seconds(code):
    """How long a fresh interpreter takes to run a line of code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main():
    """Print the table and whether the claim holds."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(STARTS):
        for name, code in WAYS.items():
            best[name] = min(best[name], seconds(code))
    print(f"Python {platform.python_version()}; fastest of {STARTS} interleaved starts\n")
    print(f"{'import':<22}{'ms':>8}{'more':>8}{'ratio':>8}")
    for name, took in best.items():
        print(f"{name:<22}{1e3 * took:>8.1f}{1e3 * (took - best['nothing']):>+8.1f}{took / best['nothing']:>8.2f}")
    more = best["reslab.stages"] - best["nothing"]
    print(f"\n{1e3 * more:.0f} ms more; claimed under 100: {'holds' if more < 0.1 else 'FAILS'}")


if __name__ == "__main__":
    main()
