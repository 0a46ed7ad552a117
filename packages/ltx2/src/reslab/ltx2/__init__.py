"""LTX-2 and LTX-2.3 as named stages over diffusers' own blocks, with tiny models of the true geometry.

    from reslab import ltx2

    checkpoint = ltx2.load("tiny", variant="LTX-2.3")      # or a local folder, or a hub id
    pipe = ltx2.two_stage(checkpoint)                      # a reslab.stages.Pipeline
    video = pipe.run(prompt="a heron over a weir", width=128, height=64, num_frames=9, seed=7)
    video.show()

Read on in `_variants` (what there is), `_small`, `_load` and `_blank` (where weights come from), `_compose` (the
pipelines), `_rehearsal` (what a run at full size consists of), `_modes` (where its weights live), `_rules` (what a
request must keep to) and `_lora` (the distilled LoRA). No model mathematics is here: diffusers has it.

What needs torch is imported when it is first asked for, so that variants and shipped rehearsals are read without it.
"""

from typing import TYPE_CHECKING

from reslab.ltx2._modes._fits import fits_chart, mode_bounds, resident_fits
from reslab.ltx2._modes._modes import MODES, Fit, device_mode, fits_resident
from reslab.ltx2._modes._reference import ReferenceDecision, reference_decision
from reslab.ltx2._rehearsal import documented_recipe, rehearsal
from reslab.ltx2._shapes import AudioShape, VideoShape
from reslab.ltx2._variants import Guidance, Variant, variant, variants
from reslab.stages.support import lazy_names

if TYPE_CHECKING:
    from reslab.ltx2._checkpoint._blank import Blank, blank
    from reslab.ltx2._checkpoint._checkpoint import Checkpoint
    from reslab.ltx2._checkpoint._download import DownloadPlan
    from reslab.ltx2._checkpoint._hub import Hub
    from reslab.ltx2._checkpoint._load import load
    from reslab.ltx2._checkpoint._write import write
    from reslab.ltx2._device import default_device
    from reslab.ltx2._modes._explorer import ModeExplorer, mode_explorer
    from reslab.ltx2._modes._runs import ModeRun, ModeRuns, compare_modes, run_mode
    from reslab.ltx2._pipeline._compose import one_stage, two_stage
    from reslab.ltx2._trial import Trial, trial
    from reslab.ltx2._video import Video

__version__ = "0.1.0"

_NEEDS_TORCH = {
    "Blank": "_checkpoint._blank",
    "Checkpoint": "_checkpoint._checkpoint",
    "DownloadPlan": "_checkpoint._download",
    "Hub": "_checkpoint._hub",
    "ModeExplorer": "_modes._explorer",
    "ModeRun": "_modes._runs",
    "ModeRuns": "_modes._runs",
    "Trial": "_trial",
    "Video": "_video",
    "blank": "_checkpoint._blank",
    "compare_modes": "_modes._runs",
    "default_device": "_device",
    "load": "_checkpoint._load",
    "mode_explorer": "_modes._explorer",
    "one_stage": "_pipeline._compose",
    "run_mode": "_modes._runs",
    "trial": "_trial",
    "two_stage": "_pipeline._compose",
    "write": "_checkpoint._write",
}

if not TYPE_CHECKING:  # a type checker would take every name for one that is there
    __getattr__ = lazy_names(__name__, _NEEDS_TORCH)

__all__ = [
    "MODES",
    "AudioShape",
    "Blank",
    "Checkpoint",
    "DownloadPlan",
    "Fit",
    "Guidance",
    "Hub",
    "ModeExplorer",
    "ModeRun",
    "ModeRuns",
    "ReferenceDecision",
    "Trial",
    "Variant",
    "Video",
    "VideoShape",
    "blank",
    "compare_modes",
    "default_device",
    "device_mode",
    "documented_recipe",
    "fits_chart",
    "fits_resident",
    "load",
    "mode_bounds",
    "mode_explorer",
    "one_stage",
    "reference_decision",
    "rehearsal",
    "resident_fits",
    "run_mode",
    "trial",
    "two_stage",
    "variant",
    "variants",
    "write",
]


def __dir__() -> list[str]:
    return __all__
