"""The configurations of the small models: released ones with smaller widths and depths.

    small_config("LTX-2.3", "transformer")["num_layers"]               # 4 instead of 48
    small_config("LTX-2.3", "transformer", "mid")["num_layers"]        # 12: 0.4 GB, so that a copy takes time
    small_config("LTX-2.3", "transformer")["cross_attn_mod"]           # True, as released

Flags, rope, padding, compression, patch sizes, register counts and the schedule stay as released, so a small pipeline
takes every path of the real one.

The libraries constrain the widths. The upsampler's are multiples of 32 (GroupNorm), LTX-2's decoder widths multiples of
8 (residual upsampling); base_channels = latent_channels × mel_bins / 4 in the audio VAE; the transformer has as many
video heads as audio heads; and the vocoder halves its width at each of its five or six upsamplings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reslab.ltx2._checkpoint._configs import config
from reslab.ltx2._variants import variant


@dataclass(frozen=True, kw_only=True)
class SmallWidths:
    """Hold widths and depths of the components with most weights; all others are as small as possible.

    Attributes:
        layers: The transformer's blocks.
        heads: The transformer's attention heads, for video and for audio.
        video, audio: The width of one video or audio head.
        text: The width of the text encoder, and of LTX-2's connectors.
        text_heads: The text encoder's attention heads, each at least 16 channels wide.
        text_layers: The text encoder's layers, in rounds of Gemma's five local layers and one global layer.
        feed_forward: The text encoder's feed-forward width as a multiple of `text`.
    """

    layers: int
    heads: int
    video: int
    audio: int
    text: int
    text_heads: int
    text_layers: int
    feed_forward: int

    @property
    def video_width(self) -> int:
        """Return the width of a video token."""
        return self.heads * self.video

    @property
    def audio_width(self) -> int:
        """Return the width of an audio token."""
        return self.heads * self.audio


#: By name: "tiny" for tests, and "mid", with so many weights that moving them takes measurable time.
SIZES = {
    "tiny": SmallWidths(layers=4, heads=2, video=16, audio=8, text=32, text_heads=2, text_layers=6, feed_forward=2),
    "mid": SmallWidths(layers=12, heads=8, video=64, audio=32, text=512, text_heads=8, text_layers=6, feed_forward=4),
}

_LATENTS = 8  # channels of a video latent
_AUDIO_LATENTS, _MEL_BINS = 2, 16
_AUDIO_BASE = _AUDIO_LATENTS * _MEL_BINS // 4

_AUDIO_VAE = {
    "base_channels": _AUDIO_BASE,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "latent_channels": _AUDIO_LATENTS,
    "mel_bins": _MEL_BINS,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
}
_RESNETS = {"resnet_kernel_sizes": [3], "resnet_dilations": [[1, 3, 5]]}
_VAE = {"latent_channels": _LATENTS, "block_out_channels": [8, 8, 16, 16], "layers_per_block": [1, 1, 1, 1, 1]}
_UPSAMPLER = {"in_channels": _LATENTS, "mid_channels": 32, "num_blocks_per_stage": 1}

_OWN: dict[str, dict[str, dict[str, Any]]] = {
    "LTX-2": {
        "vae": {**_VAE, "decoder_block_out_channels": [8, 16, 32], "decoder_layers_per_block": [1, 1, 1, 1]},
        "vocoder": {"in_channels": 2 * _MEL_BINS, "hidden_channels": 32, **_RESNETS},
    },
    "LTX-2.3": {
        "vae": {**_VAE, "decoder_block_out_channels": [8, 16, 16, 32], "decoder_layers_per_block": [1, 1, 1, 1, 1]},
        "vocoder": {
            "in_channels": 2 * _MEL_BINS,
            "hidden_channels": 64,
            "bwe_in_channels": 2 * _MEL_BINS,
            "bwe_hidden_channels": 32,
            "num_mel_channels": _MEL_BINS,
            **_RESNETS,
            **{f"bwe_{name}": value for name, value in _RESNETS.items()},
        },
    },
}


def small_config(variant_name: str, component: str, size: str = "tiny") -> dict[str, Any]:
    """Return the released constructor arguments of a component with smaller widths and depths.

    >>> small_config("LTX-2", "vae")["upsample_residual"], small_config("LTX-2", "vae")["latent_channels"]
    ([True, True, True], 8)

    Args:
        variant_name: A variant's name.
        component: A component's name.
        size: A key of `SIZES`.
    """
    family = variant(variant_name).name.removesuffix(" distilled")
    smaller = _smaller(family, SIZES[size])[component]
    released = config(variant_name, component)
    nested = {key: {**released[key], **value} for key, value in smaller.items() if isinstance(value, dict)}
    return {**released, **smaller, **nested}


def _smaller(family: str, widths: SmallWidths) -> dict[str, dict[str, Any]]:
    return {
        "transformer": _transformer(widths),
        "text_encoder": _text_encoder(widths),
        "connectors": _connectors(family, widths),
        "audio_vae": _AUDIO_VAE,
        "latent_upsampler": _UPSAMPLER,
        "scheduler": {},
        **_OWN[family],
    }


def _transformer(widths: SmallWidths) -> dict[str, Any]:
    return {
        "num_layers": widths.layers,
        "in_channels": _LATENTS,
        "out_channels": _LATENTS,
        "num_attention_heads": widths.heads,
        "attention_head_dim": widths.video,
        "cross_attention_dim": widths.video_width,
        "audio_in_channels": _AUDIO_BASE,
        "audio_out_channels": _AUDIO_BASE,
        "audio_num_attention_heads": widths.heads,
        "audio_attention_head_dim": widths.audio,
        "audio_cross_attention_dim": widths.audio_width,
        "caption_channels": widths.text,
    }


def _text_encoder(widths: SmallWidths) -> dict[str, Any]:
    head = widths.text // widths.text_heads
    return {
        # the three image tokens follow the tokenizer's 5 + 256
        "boi_token_index": 261,
        "eoi_token_index": 262,
        "image_token_index": 263,
        "eos_token_id": [1],
        "mm_tokens_per_image": 4,
        "text_config": {
            "hidden_size": widths.text,
            "intermediate_size": widths.feed_forward * widths.text,
            "num_hidden_layers": widths.text_layers,
            "num_attention_heads": widths.text_heads,
            "num_key_value_heads": widths.text_heads // 2,
            "head_dim": head,
            "query_pre_attn_scalar": head,
            "vocab_size": 264,
        },
        "vision_config": _VISION,
    }


def _connectors(family: str, widths: SmallWidths) -> dict[str, Any]:
    sizes = {
        "caption_channels": widths.text,
        "text_proj_in_factor": widths.text_layers + 1,
        "video_connector_num_attention_heads": widths.heads,
        "video_connector_attention_head_dim": widths.video,
        "video_connector_num_layers": 1,
        "audio_connector_num_layers": 1,
        "audio_connector_num_attention_heads": widths.heads,
    }
    if family == "LTX-2":  # its connectors are as wide as the text encoder
        return {**sizes, "audio_connector_attention_head_dim": widths.text // widths.heads}
    own = {"video_hidden_dim": widths.video_width, "audio_hidden_dim": widths.audio_width}
    return {**sizes, "audio_connector_attention_head_dim": widths.audio, **own}
