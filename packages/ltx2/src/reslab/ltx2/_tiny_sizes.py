"""The widths and depths of the tiny models: what is shrunk, and nothing else.

A tiny configuration is a released one with the entries below replaced. Flags, rope, padding, compression, patch
sizes, register counts and the schedule stay as released, so a tiny pipeline takes every path that the real one takes.

    tiny_config("LTX-2.3", "transformer")["num_layers"]        # 4 instead of 48
    tiny_config("LTX-2.3", "transformer")["cross_attn_mod"]    # True, as released

What the widths have to obey: the upsampler's divide by 32 (GroupNorm), LTX-2's decoder widths by 8 (residual
upsampling), base_channels = latent_channels × mel_bins / 4 in the audio VAE, as many video heads as audio heads in
the transformer, and the vocoder halves its width at each of its five or six upsamplings.
"""

from __future__ import annotations

from typing import Any

from reslab.ltx2._configs import config
from reslab.ltx2._variants import variant

_TEXT = 32  # width of the text encoder, and of LTX-2's connectors
_TEXT_LAYERS = 6  # one round of Gemma's five local layers and a global one
_VIDEO = {"heads": 2, "head_dim": 16}
_AUDIO = {"heads": 2, "head_dim": 8}
_VIDEO_WIDTH = _VIDEO["heads"] * _VIDEO["head_dim"]
_AUDIO_WIDTH = _AUDIO["heads"] * _AUDIO["head_dim"]
_LATENTS = 8  # channels of a video latent
_AUDIO_LATENTS, _MEL_BINS = 2, 16
_AUDIO_BASE = _AUDIO_LATENTS * _MEL_BINS // 4

_TRANSFORMER = {
    "num_layers": 4,
    "in_channels": _LATENTS,
    "out_channels": _LATENTS,
    "num_attention_heads": _VIDEO["heads"],
    "attention_head_dim": _VIDEO["head_dim"],
    "cross_attention_dim": _VIDEO_WIDTH,
    "audio_in_channels": _AUDIO_BASE,
    "audio_out_channels": _AUDIO_BASE,
    "audio_num_attention_heads": _AUDIO["heads"],
    "audio_attention_head_dim": _AUDIO["head_dim"],
    "audio_cross_attention_dim": _AUDIO_WIDTH,
    "caption_channels": _TEXT,
}

_TEXT_ENCODER = {
    # the three image tokens follow the tokenizer's 5 + 256
    "boi_token_index": 261,
    "eoi_token_index": 262,
    "image_token_index": 263,
    "eos_token_id": [1],
    "mm_tokens_per_image": 4,
    "text_config": {
        "hidden_size": _TEXT,
        "intermediate_size": 2 * _TEXT,
        "num_hidden_layers": _TEXT_LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "vocab_size": 264,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
    },
}

_AUDIO_VAE = {
    "base_channels": _AUDIO_BASE,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "latent_channels": _AUDIO_LATENTS,
    "mel_bins": _MEL_BINS,
}

_RESNETS = {"resnet_kernel_sizes": [3], "resnet_dilations": [[1, 3, 5]]}
_VAE = {"latent_channels": _LATENTS, "block_out_channels": [8, 8, 16, 16], "layers_per_block": [1, 1, 1, 1, 1]}
_UPSAMPLER = {"in_channels": _LATENTS, "mid_channels": 32, "num_blocks_per_stage": 1}

_SHARED: dict[str, dict[str, Any]] = {
    "transformer": _TRANSFORMER,
    "text_encoder": _TEXT_ENCODER,
    "audio_vae": _AUDIO_VAE,
    "latent_upsampler": _UPSAMPLER,
    "scheduler": {},
}

_CONNECTORS = {
    "caption_channels": _TEXT,
    "text_proj_in_factor": _TEXT_LAYERS + 1,
    "video_connector_num_attention_heads": _VIDEO["heads"],
    "video_connector_attention_head_dim": _VIDEO["head_dim"],
    "video_connector_num_layers": 1,
    "audio_connector_num_layers": 1,
    "audio_connector_num_attention_heads": _AUDIO["heads"],
}

_OWN: dict[str, dict[str, dict[str, Any]]] = {
    "LTX-2": {
        "connectors": {**_CONNECTORS, "audio_connector_attention_head_dim": _TEXT // _AUDIO["heads"]},
        "vae": {**_VAE, "decoder_block_out_channels": [8, 16, 32], "decoder_layers_per_block": [1, 1, 1, 1]},
        "vocoder": {"in_channels": 2 * _MEL_BINS, "hidden_channels": 32, **_RESNETS},
    },
    "LTX-2.3": {
        "connectors": {
            **_CONNECTORS,
            "audio_connector_attention_head_dim": _AUDIO["head_dim"],
            "video_hidden_dim": _VIDEO_WIDTH,
            "audio_hidden_dim": _AUDIO_WIDTH,
        },
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


def tiny_config(variant_name: str, component: str) -> dict[str, Any]:
    """Return the constructor arguments of a tiny component: the released ones, with smaller widths and depths.

    >>> tiny_config("LTX-2", "vae")["upsample_residual"], tiny_config("LTX-2", "vae")["latent_channels"]
    ([True, True, True], 8)
    """
    own = _OWN[variant(variant_name).name.removesuffix(" distilled")]
    smaller = {**_SHARED, **own}[component]
    released = config(variant_name, component)
    nested = {key: {**released[key], **value} for key, value in smaller.items() if isinstance(value, dict)}
    return {**released, **smaller, **nested}
