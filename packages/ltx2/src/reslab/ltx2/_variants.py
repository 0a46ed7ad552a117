"""The variants of LTX-2 as data: sizes, steps, guidance, sigmas, and where their weights are published.

A variant is what "LTX-2.3 distilled" means: the numbers that its authors run it with and the places of its files. It
holds no code and no weights; `_checkpoint/_configs` has the layer sizes, `_checkpoint/_load` the weights.

    from reslab import ltx2
    ltx2.variant("LTX-2.3").video.cfg            # 3.0
    ltx2.variant("LTX-2.3 distilled").sigmas     # eight fixed values: no schedule, no guidance

Every constant names its source by one of these letters:
    [L] Lightricks/LTX-2 on GitHub, `ltx_pipelines/utils/constants.py` and the pipelines beside it, 1.0.0 and 1.2.0
    [D] diffusers 0.42.1, `pipelines/ltx2/utils.py` and the recipes in `docs/source/en/api/pipelines/ltx2.md`
    [H] the model repository's own files on the Hugging Face Hub
    [R] the reference, sglang 0.5.23, `multimodal_gen`
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from reslab.ltx2._legal_numbers import is_number
from reslab.stages.support import nearest

#: Length in tokens to which a prompt is padded: diffusers 0.42.1, `LTX2TextEncoderStep`.
MAX_SEQUENCE_LENGTH = 1024
# [L] DISTILLED_SIGMA_VALUES and STAGE_2_DISTILLED_SIGMA_VALUES, equal in [D]; a final 0 is implied.
_DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
_STAGE_2_SIGMAS = (0.909375, 0.725, 0.421875)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """Hold the strengths of the four kinds of guidance for one modality; the defaults turn all of them off.

    `cfg` weighs the prompt against the negative prompt (off at 1), `stg` the model against itself with perturbed
    blocks (off at 0), `modality` the joint model against video and sound apart (off at 1); `rescale` pulls the
    result's standard deviation back to the unguided one's (off at 0, and without effect where all else is off).

    >>> Guidance(rescale=7)
    Traceback (most recent call last):
    ValueError: rescale=7 is not between 0 and 1; the nearest is 1.

    Raises:
        ValueError: A strength is no finite number, or `rescale` is outside 0 to 1.
    """

    cfg: float = 1.0
    stg: float = 0.0
    rescale: float = 0.0
    modality: float = 1.0

    def __post_init__(self) -> None:
        for each in fields(self):
            strength = getattr(self, each.name)
            if not is_number(strength):
                raise ValueError(f"{each.name}={strength!r} is not a finite number; off is {each.default}.")
            object.__setattr__(self, each.name, float(strength))
        if not 0 <= self.rescale <= 1:
            nearest = round(min(max(self.rescale, 0), 1))
            raise ValueError(f"rescale={self.rescale:g} is not between 0 and 1; the nearest is {nearest}.")

    @property
    def passes(self) -> tuple[str, ...]:
        """Name the forward passes that one step needs, in the order diffusers makes them.

        >>> Guidance(cfg=3.0, stg=1.0, modality=3.0).passes
        ('cond', 'uncond', 'stg', 'modality')
        >>> Guidance().passes
        ('cond',)
        """
        off = {"uncond": math.isclose(self.cfg, 1), "stg": self.stg == 0, "modality": math.isclose(self.modality, 1)}
        return ("cond", *(name for name, is_off in off.items() if not is_off))


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """Hold the place of one file or folder on the Hugging Face Hub: the repository and the path inside it."""

    repo: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Hold everything that distinguishes one LTX-2 model from another, except its weights."""

    name: str
    summary: str
    hub_id: str  # diffusers layout
    latent_upsampler: HubFile
    distilled_lora: HubFile | None  # None: the transformer is distilled already
    width: int = 768  # [L] one-stage defaults; pixels, frames, frames a second
    height: int = 512
    two_stage_size: tuple[int, int] | None = None  # width and height of the refined video; None: as in one stage
    num_frames: int = 121
    frame_rate: float = 24.0
    num_inference_steps: int  # of stage 1
    sigmas: tuple[float, ...] | None = None  # of stage 1; None: a schedule by `num_inference_steps`
    video: Guidance
    audio: Guidance
    stg_blocks: tuple[int, ...] = ()  # of the released depth; `Checkpoint.stg_blocks` has those of a given model
    stage_2_sigmas: tuple[float, ...] = _STAGE_2_SIGMAS
    lora_strength_stage_1: float = 0.0
    lora_strength_stage_2: float = 1.0
    # True: attention between video and audio goes by the other's noise level ([L] always; [D] by default). False: by
    # the timestep of each token itself, which differs where an image is held ([R] for LTX-2). From text they are equal.
    use_cross_timestep: bool = True
    decode_audio: Literal["stage 1", "stage 2"]  # the audio that [L] 1.2.0 keeps; 1.0.0 always keeps stage 2's
    dtype: str = "bfloat16"  # [D] every recipe loads with torch_dtype=torch.bfloat16
    only_rehearsed: tuple[str, ...] = ()  # missing or assumed parts, for which `load` refuses the variant
    # An untiled decode needs 3.2 GiB of activations at this size, as much as a tiled one at 1536×1024×121 (12.9 GiB
    # untiled); above it tiling is on. Pixels × frames.
    tile_above_pixels: int = 768 * 512 * 121

    def size(self, stages: str) -> tuple[int, int]:
        """Return the default width and height of "one" stage or of "two".

        >>> variant("LTX-2.5").size("one"), variant("LTX-2.5").size("two")
        ((960, 544), (1920, 1088))
        """
        return (stages == "two" and self.two_stage_size) or (self.width, self.height)

    @property
    def noise_scale(self) -> float:
        """Return the noise level at which stage 2 starts: its first sigma ([D] passes the same number twice)."""
        return self.stage_2_sigmas[0]

    @property
    def is_distilled(self) -> bool:
        """Tell whether the transformer itself is distilled, so that no LoRA is switched on for refining."""
        return self.distilled_lora is None

    def require_weights(self) -> None:
        """Refuse a variant that can only be rehearsed.

        Raises:
            ValueError: The variant has no usable weights; the message names what is missing or assumed.
        """
        if self.only_rehearsed:
            why = "; ".join(self.only_rehearsed)
            raise ValueError(f"{self.name} can be rehearsed (ltx2.blank), not loaded or run: {why}.")


_LTX_2 = Variant(
    name="LTX-2",
    summary="19 B parameters, guided by prompt against negative prompt",
    hub_id="Lightricks/LTX-2",
    latent_upsampler=HubFile(repo="Lightricks/LTX-2", path="latent_upsampler"),  # [D]
    distilled_lora=HubFile(repo="Lightricks/LTX-2", path="ltx-2-19b-distilled-lora-384.safetensors"),  # [D]
    num_inference_steps=40,  # [L], [D]
    # [R], and [D]'s recipes for LTX-2. [L] guides LTX-2 as LTX-2.3, four passes a step:
    # two_stage(checkpoint, video_guidance=variant("LTX-2.3").video, audio_guidance=variant("LTX-2.3").audio)
    video=Guidance(cfg=4.0),
    audio=Guidance(cfg=4.0),
    stg_blocks=(29,),  # [L], which perturbs it by default; [R] does not, and here it is off by default
    decode_audio="stage 1",
)

_LTX_23 = Variant(
    name="LTX-2.3",
    summary="22 B parameters, guided in four passes a step",
    hub_id="diffusers/LTX-2.3-Diffusers",
    # [H] diffusers/LTX-2.3-Diffusers has no upsampler; these are the converted weights of Lightricks/LTX-2.3.
    latent_upsampler=HubFile(repo="dg845/LTX-2.3-Spatial-Upsampler-Diffusers", path="latent_upsampler"),
    distilled_lora=HubFile(repo="Lightricks/LTX-2.3", path="ltx-2.3-22b-distilled-lora-384.safetensors"),  # [H]
    num_inference_steps=30,  # [L]
    video=Guidance(cfg=3.0, stg=1.0, rescale=0.7, modality=3.0),  # [L], [D], [R]
    audio=Guidance(cfg=7.0, stg=1.0, rescale=0.7, modality=3.0),  # [L], [D], [R]
    stg_blocks=(28,),  # [L], and [D] "recommended for LTX-2.3"
    decode_audio="stage 1",  # [L]
)

_LTX_23_DISTILLED = Variant(
    name="LTX-2.3 distilled",
    summary="22 B parameters, eight fixed steps, no guidance, no LoRA",
    hub_id="diffusers/LTX-2.3-Distilled-Diffusers",
    latent_upsampler=_LTX_23.latent_upsampler,
    distilled_lora=None,
    num_inference_steps=len(_DISTILLED_SIGMAS),
    sigmas=_DISTILLED_SIGMAS,
    video=Guidance(),  # [L] distilled: unguided
    audio=Guidance(),
    lora_strength_stage_2=0.0,
    decode_audio="stage 2",  # [L] the distilled pipeline keeps stage 2's
)

_LTX_25 = Variant(
    name="LTX-2.5",
    summary="22 B parameters, eight fixed steps, a video decoder that denoises; can be rehearsed, not loaded",
    hub_id="Lightricks/LTX-2.5-Diffusers",
    latent_upsampler=HubFile(repo="Lightricks/LTX-2.5-Diffusers", path="latent_upsampler"),
    distilled_lora=None,
    width=960,  # [L], and [D]: of the first pass, whose size the second doubles
    height=544,
    two_stage_size=(1920, 1088),
    num_inference_steps=len(_DISTILLED_SIGMAS),
    sigmas=_DISTILLED_SIGMAS,
    video=Guidance(),  # [L] unguided
    audio=Guidance(),
    lora_strength_stage_2=0.0,
    decode_audio="stage 2",
    only_rehearsed=(
        "the text encoder is taken to be Gemma 4 12B as published, upsampler and scheduler to be LTX-2.3 distilled's",
        "the video decoder's neighbourhood attention is counted as NATTEN computes it, and cannot be run here",
        "the prompt enhancer and the duration head, which are optional, are left out",
    ),
)

#: All variants, including those that can only be rehearsed.
EVERY_VARIANT = (_LTX_2, _LTX_23, _LTX_23_DISTILLED, _LTX_25)
_VARIANTS = {v.name: v for v in EVERY_VARIANT}


def variants() -> tuple[Variant, ...]:
    """List the variants that can be loaded, the oldest first; LTX-2.5 can only be rehearsed."""
    return tuple(each for each in EVERY_VARIANT if not each.only_rehearsed)


def variant(name: str) -> Variant:
    """Return the variant of this name; capitals do not matter.

    >>> variant("LTX-2.3").num_inference_steps
    30
    >>> variant("LTX-2.3 destilled")
    Traceback (most recent call last):
    ValueError: there is no variant 'LTX-2.3 destilled'; did you mean 'LTX-2.3 distilled'?

    Raises:
        ValueError: No variant has this name; the message names the nearest ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"variant={name!r} is no name; the variants are {', '.join(map(repr, _VARIANTS))}.")
    known = {known.casefold(): known for known in _VARIANTS}
    if name.casefold() in known:
        return _VARIANTS[known[name.casefold()]]
    raise ValueError(f"there is no variant {name!r}; {nearest(name, _VARIANTS)}")
