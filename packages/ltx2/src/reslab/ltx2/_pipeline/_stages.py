"""The stages of LTX-2 that are not diffusers' blocks alone, from checking the request to the finished `Video`.

Before denoising: check the request, halve the size, set the LoRA's strength, write sigmas, and keep the generator's
state for the image. Between the two denoising stages: upsample the latents and convert them to the form that the second
stage takes. At the end: decode to pixels and a waveform, in tiles where due, and copy both to host memory.

No model mathematics is here: diffusers' own functions convert tensors. `_stage_groups` puts these stages and diffusers'
blocks in order.

Axes: B videos, C channels, F latent frames, H and W latent rows and columns, L audio latents, M latent mel bins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

from reslab.ltx2._checkpoint import _lora
from reslab.ltx2._pipeline._limits import Limits, fitting_stride, least_latents
from reslab.ltx2._pipeline._request_rules import check_request
from reslab.ltx2._variants import MAX_SEQUENCE_LENGTH, Variant
from reslab.ltx2._video import Video
from reslab.stages import BlockStage, Choice, Signature, Stage


class InputValidationStage(Stage):
    """Check the request against the rules of the model, and fill in the variant's defaults."""

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
        """Check a request; one `PipelineError` names every rule that it breaks."""
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
        """Return the request with every default filled in.

        Args:
            prompt: A description of the video.
            negative_prompt: A description of content to avoid; only guided variants read it.
            image: A PIL image or a uint8 array (height, width, 3) that becomes the first frame.
            image_strength: The weight of the image in the first frame, from 0 to 1; by default 1.
            image_crf: The H.264 quality at which the image is compressed first, as in training: 51 is the coarsest, 0
                leaves it as it is, None takes the model's.
            width: Pixels, a multiple of 64 (32 in one stage), at most 8192; by default the variant's.
            height: Pixels, as for `width`.
            num_frames: Frames, 8k+1, of at most 80 seconds; by default the variant's.
            frame_rate: Frames a second, at most 1000; by default the variant's.
            motion_speed: The speed of motion relative to real time, from 0.01 to 100; diffusers' denoising reads it.
            num_inference_steps: Denoising steps of the first stage, from 2 to 1000; by default the variant's.
            max_sequence_length: The length in tokens to which the prompt is padded, a multiple of the connectors'
                registers; by default 1024.
            seed: The seed of the noise, from 0 to 2⁶⁴−1; without it and `generator` each run draws a new one.
            generator: A generator that draws the noise, in place of a seed.
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
    """Return a generator on the CPU, whose noise is the same whatever device the model runs on."""
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

    The LoRA is added on the fly, unless a residency runs the stages that have it on with a merged transformer.
    """

    components = ("transformer",)
    writes = ()

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def run(self, transformer: torch.nn.Module) -> None:
        _lora.set_strength(transformer, self.strength)


class LTX2SigmaPreparationStage(Stage):
    """Write the sigmas of the first stage: the variant's own, or evenly spaced ones that the scheduler shifts."""

    writes = ("sigmas",)

    def __init__(self, sigmas: tuple[float, ...] | None) -> None:
        self.sigmas = sigmas

    def run(self, num_inference_steps: int) -> dict[str, Any]:
        even = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        return {"sigmas": even if self.sigmas is None else list(self.sigmas)}


class LTX2AVLatentPreparationStage(BlockStage):
    """Prepare latents without an image, and keep the generator's state for the image stage to draw the same noise."""

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
    """Denoise video and audio together; with `base_only` switch off a LoRA first that another pipeline left on."""

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


class LTX2UpsampleStage(Stage):
    """Double width and height of the video latents, and convert both latents to the form that the second stage takes.

    The upsampler works on de-normalised latents (B, C, F, H, W). The second stage takes video in that form and audio as
    de-normalised (B, C, L, M). It normalises audio of any rank, so packed, normalised audio would be normalised twice
    without an error.
    """

    components = ("latent_upsampler", "vae", "audio_vae", "transformer")
    writes = ("refine_latents", "refine_audio_latents")

    @torch.no_grad()
    def run(
        self,
        latents: torch.Tensor,
        audio_latents: torch.Tensor,
        audio_num_frames: int,
        num_frames: int,
        height: int,
        width: int,
        latent_upsampler: Any,
        vae: Any,
        audio_vae: Any,
        transformer: Any,
    ) -> dict[str, torch.Tensor]:
        video = denormalised_video(latents, num_frames, height, width, vae, transformer)
        return {
            "refine_latents": latent_upsampler(video.to(latent_upsampler.dtype)),
            "refine_audio_latents": denormalised_audio(audio_latents, audio_num_frames, audio_vae),
        }


def denormalised_video(
    latents: torch.Tensor, num_frames: int, height: int, width: int, vae: Any, transformer: Any
) -> torch.Tensor:
    """Turn packed, normalised video latents (B, tokens, C) into de-normalised ones (B, C, F, H, W)."""
    frames = (num_frames - 1) // vae.temporal_compression_ratio + 1
    rows, columns = height // vae.spatial_compression_ratio, width // vae.spatial_compression_ratio
    patch = transformer.config.patch_size, transformer.config.patch_size_t
    unpacked = LTX2Pipeline._unpack_latents(latents, frames, rows, columns, *patch)
    return LTX2Pipeline._denormalize_latents(unpacked, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


def denormalised_audio(audio_latents: torch.Tensor, audio_num_frames: int, audio_vae: Any) -> torch.Tensor:
    """Turn packed, normalised audio latents (B, L, C×M) into de-normalised ones (B, C, L, M)."""
    mel_bins = audio_vae.config.mel_bins // audio_vae.mel_compression_ratio
    packed = LTX2Pipeline._denormalize_audio_latents(audio_latents, audio_vae.latents_mean, audio_vae.latents_std)
    return LTX2Pipeline._unpack_audio_latents(packed, audio_num_frames, num_mel_bins=mel_bins)


class LTX2AVDecodingStage(BlockStage):
    """Decode video and audio, in tiles where that is due, and put them together in host memory.

    LTX-2.3's sound passes two networks: a vocoder, and one that extends its bandwidth. diffusers and the released
    configuration do not limit the waveform between the two; Lightricks' code cuts it to ±1, which is audible where it
    is louder. `vocoder.vocoder.final_act_fn = "clamp"` does the same here.

    Args:
        blocks: diffusers' video and audio decoders.
        decoder: The name of the component that decodes video.
        tile_above_pixels: Pixels × frames above which the decoder works in tiles; below, as the user set it.
        untrained: Whether the weights are random, so that the result is noise by design.
    """

    def __init__(self, *blocks: Any, decoder: str, tile_above_pixels: float, untrained: bool) -> None:
        super().__init__(*blocks, stage_class=type(self).__name__)
        self.decoder, self.tile_above_pixels, self.untrained = decoder, tile_above_pixels, untrained

    def signature(self, available: Collection[str] = ()) -> Signature:
        own = super().signature(available)
        return Signature(components=own.components, reads=own.reads, writes=("video",))

    def prepare(self, bind: Any) -> Callable[[Any], None]:
        decode = super().prepare(bind)

        def call(values: Any) -> None:
            width, height = values["width"], values["height"]
            due = width * height * values["num_frames"] > self.tile_above_pixels
            with tiled(bind.component(self.decoder), due, width=width, height=height):
                decode(values)
            values["video"] = Video(
                frames=to_uint8(values.pop("videos")),
                audio=values.pop("audio")[0].float().cpu().numpy().T,
                frame_rate=values["frame_rate"],
                sample_rate=bind.component("vocoder").config.output_sampling_rate,
                untrained=self.untrained,
            )

        return call


@contextmanager
def tiled(decoder: Any, due: bool, *, width: int = 0, height: int = 0) -> Iterator[None]:
    """Set a video decoder to tiles where they are due, and restore its settings at the end.

    Where a decoder pads by reflection and its last tile would be too narrow, its tiles overlap a little more.
    """
    wanted = {"use_tiling": decoder.use_tiling or due, **_strides(decoder, width=width, height=height)}
    before = {name: getattr(decoder, name) for name in wanted}
    try:
        _set(decoder, wanted)
        yield
    finally:
        _set(decoder, before)


def _set(decoder: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(decoder, name, value)


def _strides(decoder: Any, **sides: int) -> dict[str, int]:
    """Return the strides in pixels that differ from the decoder's for a picture of these sides, by attribute name."""
    least = least_latents(decoder.config) if "decoder_spatial_padding_mode" in decoder.config else 1
    scale, moved = decoder.config.spatial_compression_ratio, {}
    for side, pixels in sides.items():
        tile, stride = (getattr(decoder, f"tile_sample_{kind}_{side}") // scale for kind in ("min", "stride"))
        fitting = fitting_stride(pixels // scale, tile=tile, stride=stride, least=least) if least > 1 else None
        if fitting is not None and fitting != stride:
            moved[f"tile_sample_stride_{side}"] = fitting * scale
    return moved


def to_uint8(videos: torch.Tensor) -> np.ndarray:
    """Turn decoded videos (1, F, 3, H, W) in [0, 1] into frames (F, H, W, 3) on the host, rounded as diffusers does."""
    frames = (videos[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    return frames.cpu().numpy()
