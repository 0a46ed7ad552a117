"""LTX-2 and LTX-2.3 as named stages over diffusers' own blocks, with tiny models of the true geometry.

    from reslab import ltx2

    checkpoint = ltx2.load("tiny", variant="LTX-2.3")      # or a local folder, or a hub id
    pipe = ltx2.two_stage(checkpoint)                      # a reslab.stages.Pipeline
    video = pipe.run(prompt="a heron over a weir", width=128, height=64, num_frames=9, seed=7)
    video.show()

`variants` lists the models. `load` and `blank` provide weights, `one_stage` and `two_stage` compose pipelines, and
`rehearsal` describes a run at full size. `device_mode` plans where the weights of a run live, and `compare_modes`
measures those plans. diffusers provides all model mathematics.

Names that need torch import it on first use, so variants and shipped rehearsals can be read without torch.
"""

from typing import TYPE_CHECKING

from reslab.ltx2._choices import DecodeAudio, DecodeTiling, DeviceMode, SigmaSchedule, StageCount
from reslab.ltx2._modes._device_modes import Fit, device_mode, fits_resident
from reslab.ltx2._modes._modes_on_cards import fits_chart, mode_bounds, resident_fits
from reslab.ltx2._modes._reference import ReferenceDecision, reference_decision
from reslab.ltx2._rehearsal import documented_recipe, rehearsal
from reslab.ltx2._shapes import AudioShape, VideoShape
from reslab.ltx2._variants import Guidance, Variant, variant, variants
from reslab.stages.support import lazy_names

if TYPE_CHECKING:
    from reslab.ltx2._checkpoint._blank import Blank, blank
    from reslab.ltx2._checkpoint._checkpoint import Checkpoint
    from reslab.ltx2._checkpoint._download_plan import DownloadPlan
    from reslab.ltx2._checkpoint._hub import Hub
    from reslab.ltx2._checkpoint._load import load
    from reslab.ltx2._checkpoint._write import write
    from reslab.ltx2._device import default_device
    from reslab.ltx2._modes._explorer import ModeExplorer, mode_explorer
    from reslab.ltx2._modes._mode_runs import ModeRun, ModeRuns, compare_modes, run_mode
    from reslab.ltx2._pipeline._compose import one_stage, two_stage
    from reslab.ltx2._trial import Trial, trial
    from reslab.ltx2._video import Video

__version__ = "0.2.0"

_NEEDS_TORCH = {
    "Blank": "_checkpoint._blank",
    "Checkpoint": "_checkpoint._checkpoint",
    "DownloadPlan": "_checkpoint._download_plan",
    "Hub": "_checkpoint._hub",
    "ModeExplorer": "_modes._explorer",
    "ModeRun": "_modes._mode_runs",
    "ModeRuns": "_modes._mode_runs",
    "Trial": "_trial",
    "Video": "_video",
    "blank": "_checkpoint._blank",
    "compare_modes": "_modes._mode_runs",
    "default_device": "_device",
    "load": "_checkpoint._load",
    "mode_explorer": "_modes._explorer",
    "one_stage": "_pipeline._compose",
    "run_mode": "_modes._mode_runs",
    "trial": "_trial",
    "two_stage": "_pipeline._compose",
    "write": "_checkpoint._write",
}

if not TYPE_CHECKING:  # with `__getattr__` a type checker would accept every name
    __getattr__ = lazy_names(__name__, _NEEDS_TORCH)

__all__ = [
    "AudioShape",
    "Blank",
    "Checkpoint",
    "DecodeAudio",
    "DecodeTiling",
    "DeviceMode",
    "DownloadPlan",
    "Fit",
    "Guidance",
    "Hub",
    "ModeExplorer",
    "ModeRun",
    "ModeRuns",
    "ReferenceDecision",
    "SigmaSchedule",
    "StageCount",
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
