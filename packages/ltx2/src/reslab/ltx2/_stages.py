"""The stages of LTX-2 up to denoising that are not diffusers' blocks: checking, halving, switching, keeping the noise.

No model mathematics is here. `_compose` puts these and diffusers' blocks in order; `_upsample` and `_decoding` have
the stages after denoising.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

from reslab.ltx2 import _lora
from reslab.ltx2._limits import Limits
from reslab.ltx2._rules import check_request
from reslab.ltx2._variants import MAX_SEQUENCE_LENGTH, Variant
from reslab.stages import BlockStage, Choice, Signature, Stage


class InputValidationStage(Stage):
    """Check the request against the rules of the model, and fill in what it leaves open from the variant."""

    writes = (
        "prompt",
        "negative_prompt",
        "conditions",
        "width",
        "height",
        "num_frames",
        "frame_rate",
        "num_inference_steps",
        "max_sequence_length",
        "num_videos_per_prompt",
        "generator",
    )

    def __init__(self, variant: Variant, *, stages: str) -> None:
        self.variant, self.stages = variant, stages

    def check(self, values: Mapping[str, Any], components: Mapping[str, Any]) -> None:
        """Raise `PipelineError` naming every rule that the request breaks."""
        check_request(values, Limits.of(components, variant=self.variant, stages=self.stages))

    def run(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        image: Any = None,
        image_strength: SupportsFloat | None = None,
        image_crf: SupportsIndex | None = None,
        width: SupportsIndex | None = None,
        height: SupportsIndex | None = None,
        num_frames: SupportsIndex | None = None,
        frame_rate: SupportsFloat | None = None,
        motion_speed: SupportsFloat | None = None,
        num_inference_steps: SupportsIndex | None = None,
        max_sequence_length: SupportsIndex | None = None,
        seed: SupportsIndex | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """Return the request made complete.

        Args:
            prompt: What the video should show.
            negative_prompt: What it should not; read by guided variants only.
            image: A PIL image or a uint8 array (height, width, 3) that becomes the first frame.
            image_strength: How firmly the first frame is held, from 0 to 1; by default 1.
            image_crf: H.264 quality at which the image is compressed first, as in training: 51 is the coarsest, 0
                leaves it as it is, None takes the model's.
            width: Pixels, a multiple of 64 (32 in one stage); at most 8192; by default, as for what follows, the
                variant's.
            height: Pixels, as for `width`.
            num_frames: Frames, 8k+1, of at most 80 seconds.
            frame_rate: Frames a second, at most 1000.
            motion_speed: How fast things move against real time, from 0.01 to 100; read by diffusers' denoising.
            num_inference_steps: Denoising steps of the first stage, from 2 to 1000.
            max_sequence_length: Tokens the prompt is padded to, a multiple of the connectors' registers; 1024.
            seed: Where the noise starts, from 0 to 2⁶⁴−1; a new one in each run where neither it nor `generator` is
                given.
            generator: A generator to draw the noise from, instead of a seed.
        """
        variant = self.variant
        usual_width, usual_height = variant.size(self.stages)
        strength = 1.0 if image_strength is None else float(image_strength)
        condition = LTX2VideoCondition(frames=image, index=0, strength=strength, crf=image_crf)
        return {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "conditions": None if image is None else [condition],
            "width": int(width or usual_width),
            "height": int(height or usual_height),
            "num_frames": int(num_frames or variant.num_frames),
            "frame_rate": float(frame_rate or variant.frame_rate),
            "num_inference_steps": int(num_inference_steps or variant.num_inference_steps),
            "max_sequence_length": int(max_sequence_length or MAX_SEQUENCE_LENGTH),
            "num_videos_per_prompt": 1,
            "generator": generator if generator is not None else _generator(seed),
        }


def _generator(seed: SupportsIndex | None) -> torch.Generator:
    """A generator on the CPU: the same noise whatever device the model runs on."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(int(seed))
    return generator


class LTX2HalveResolutionStage(Stage):
    """Halve width and height for the first stage."""

    writes = ("half_width", "half_height")

    def run(self, width: int, height: int) -> dict[str, int]:
        return {"half_width": width // 2, "half_height": height // 2}


class LTX2LoRASwitchStage(Stage):
    """Set the strength at which the distilled LoRA is added to the transformer; 0 leaves it out.

    It is added on the fly, unless a residency runs what has the LoRA on with a merged copy of the transformer instead.
    """

    components = ("transformer",)
    writes = ()

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def run(self, transformer: torch.nn.Module) -> None:
        _lora.set_strength(transformer, self.strength)


class LTX2SigmaPreparationStage(Stage):
    """Write the sigmas of the first stage: the variant's own, or evenly spaced ones for the scheduler to shift."""

    writes = ("sigmas",)

    def __init__(self, sigmas: tuple[float, ...] | None) -> None:
        self.sigmas = sigmas

    def run(self, num_inference_steps: int) -> dict[str, Any]:
        even = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        return {"sigmas": even if self.sigmas is None else list(self.sigmas)}


class LTX2AVLatentPreparationStage(BlockStage):
    """Prepare the latents without an image, keeping the generator so that the image stage draws the same noise."""

    def signature(self, available: Collection[str] = ()) -> Signature:
        own = super().signature(available)
        return Signature(components=own.components, reads=own.reads, writes=(*(own.writes or ()), "image_generator"))

    def prepare(self, bind: Any) -> Callable[[Any], None]:
        prepare_latents = super().prepare(bind)

        def call(values: Any) -> None:
            values[bind.value("image_generator")] = values[bind.value("generator")].clone_state()
            prepare_latents(values)

        return call


class LTX2AVDenoisingStage(Choice):
    """Denoise video and audio together; `base_only` first switches off a LoRA that another pipeline left on."""

    def __init__(self, trigger: str, *, present: Stage, absent: Stage, base_only: bool) -> None:
        super().__init__(trigger, present=present, absent=absent, stage_class=type(self).__name__)
        self.base_only = base_only

    def prepare(self, bind: Any) -> Callable[[Any], None]:
        denoise = super().prepare(bind)
        if not self.base_only:
            return denoise

        def call(values: Any) -> None:
            _lora.set_strength(bind.component("transformer"), 0.0)
            denoise(values)

        return call
