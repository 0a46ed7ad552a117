"""LTX-2 and LTX-2.3 as named stages over diffusers' own blocks, with tiny models of the true geometry.

    from reslab import ltx2

    checkpoint = ltx2.load("tiny", variant="LTX-2.3")      # or a local folder, or a hub id
    pipe = ltx2.two_stage(checkpoint)                      # a reslab.stages.Pipeline
    video = pipe.run(prompt="a heron over a weir", width=128, height=64, num_frames=9, seed=7)
    video.show()

Read on in `_variants` (what there is), `_tiny` and `_load` (where weights come from), `_compose` (the pipelines),
`_rules` (what a request must keep to) and `_lora` (the distilled LoRA). No model mathematics is here: diffusers has
it.
"""

from reslab.ltx2._checkpoint import Checkpoint
from reslab.ltx2._compose import one_stage, two_stage
from reslab.ltx2._device import default_device
from reslab.ltx2._download import DownloadPlan
from reslab.ltx2._hub import Hub
from reslab.ltx2._load import load
from reslab.ltx2._shapes import AudioShape, VideoShape
from reslab.ltx2._variants import Guidance, Variant, variant, variants
from reslab.ltx2._video import Video
from reslab.ltx2._write import write

__version__ = "0.1.0"

__all__ = [
    "AudioShape",
    "Checkpoint",
    "DownloadPlan",
    "Guidance",
    "Hub",
    "Variant",
    "Video",
    "VideoShape",
    "default_device",
    "load",
    "one_stage",
    "two_stage",
    "variant",
    "variants",
    "write",
]
