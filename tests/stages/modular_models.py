"""Diffusers' modular pipelines with components of a few thousand parameters.

    tiny("WanBlocks").parts, tiny("WanBlocks").request        # for a prompt that is embedded already
    tiny("WanBlocks", *modular_texts.PROMPTED["WanBlocks"])    # with the blocks that encode it

Widths are as small as heads and rotary axes allow. A model is made once, from a fixed seed, in eval mode.
"""

import functools
import re
from typing import NamedTuple

import diffusers
import diffusers.modular_pipelines
import numpy
import PIL.Image
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

FLOW = FlowMatchEulerDiscreteScheduler
TEXT = 32  # width of an embedded prompt
TOKENS = 8
ENCODED = re.compile("embeds|mask|qwen|t5")  # names of what the blocks of a prompt write


class Tiny(NamedTuple):
    """A composition of blocks, what it runs on, a request, and settings."""

    blocks: object
    parts: dict
    request: dict
    config: dict


def tiny(name, texts=None, prompt=None):
    """Return the blocks of a name with components and a request; blocks and schedulers are new each time.

    Without `texts`, which makes encoders and tokenizers, the blocks that encode a prompt are left out.
    """
    make, request = MODELS[name]
    blocks = getattr(diffusers.modular_pipelines, name)()
    parts, given = made(make), {**request(), "generator": torch.Generator().manual_seed(0)}
    if texts is None:
        for dropped in ("text_encoder", "image_encoder"):
            blocks.sub_blocks.pop(dropped, None)
    else:
        parts |= made(texts)
        given = {key: value for key, value in given.items() if not ENCODED.search(key)} | prompt
    return Tiny(blocks, parts, given, CONFIG.get(name, {}))


def made(make):
    """Return the components: models as they were made, schedulers anew."""
    parts = dict(_made(make))
    return {name: _again(part) for name, part in parts.items()}


@functools.cache
def _made(make):
    torch.manual_seed(0)
    parts = make()
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return tuple(parts.items())


def _again(part):
    return type(part).from_config(part.config) if hasattr(part, "set_timesteps") else part


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def image(width=32, height=32):
    pixels = numpy.arange(width * height * 3, dtype=numpy.uint8).reshape(height, width, 3)
    return PIL.Image.fromarray(pixels)


def kl(channels, **more):
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(
        latent_channels=channels, block_out_channels=(4, 4), norm_num_groups=2, **kinds, **more
    )


def asked(**more):
    return lambda: {"width": 32, "height": 32, "num_inference_steps": 2, "output_type": "pt", **more}


def pictures(**more):
    return asked(**{"prompt_embeds": noise(1, TOKENS, TEXT), **more})


def frames(**more):
    return pictures(**{"num_frames": 5, **more})


def is_embedded(name):
    """Whether the request of a composition gives an embedded prompt: those of its own layout have to be encoded."""
    return any(map(ENCODED.search, MODELS[name][1]()))


def flux():
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return {"transformer": transformer, "vae": kl(4, shift_factor=0.1), "scheduler": FLOW()}


def flux2(**more):
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), **more,
    )  # fmt: skip
    return {"transformer": transformer, "vae": kl_flux2(), "scheduler": FLOW()}


def klein():
    return flux2(guidance_embeds=False)


def kl_flux2(latent_channels=4):
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKLFlux2(
        latent_channels=latent_channels, block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1, **kinds
    )


def video_vae(kind=diffusers.AutoencoderKLWan, **more):
    return kind(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **more)


def qwen():
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=64, num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return {"transformer": transformer, "vae": video_vae(diffusers.AutoencoderKLQwenImage), "scheduler": FLOW()}


def stable_diffusion_3():
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT, caption_projection_dim=32, pooled_projection_dim=32,
    )  # fmt: skip
    return {"transformer": transformer, "vae": kl(4, shift_factor=0.1), "scheduler": FLOW()}


def stable_diffusion_xl():
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, norm_num_groups=2, in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2), cross_attention_dim=TEXT, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    return {"unet": unet, "vae": kl(4), "scheduler": diffusers.EulerDiscreteScheduler()}


def one_wan(kind=diffusers.WanTransformer3DModel, **more):
    return kind(
        num_attention_heads=2, attention_head_dim=12, text_dim=TEXT, freq_dim=16, ffn_dim=16, num_layers=2,
        rope_max_seq_len=32, **more,
    )  # fmt: skip


def wan():
    return {"transformer": one_wan(), "vae": video_vae(), "scheduler": UniPCMultistepScheduler(**FLOW_SHIFT)}


def wan22():
    return {**wan(), "transformer_2": one_wan()}


def wan_image():
    return {**wan(), "transformer": one_wan(in_channels=36, image_dim=TEXT, added_kv_proj_dim=24)}


def wan22_image():
    return {**wan(), "transformer": one_wan(in_channels=36), "transformer_2": one_wan(in_channels=36)}


def wan_vace():
    kind, more = diffusers.WanVACETransformer3DModel, {"vace_layers": [0], "vace_in_channels": 96}
    return {**wan(), "transformer": one_wan(kind, **more), "transformer_2": one_wan(kind, **more)}


FLOW_SHIFT = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def z_image():
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=TEXT,
        axes_dims=[4, 4, 8], axes_lens=[64, 64, 64],
    )  # fmt: skip
    return {"transformer": transformer, "vae": kl(16, shift_factor=0.1), "scheduler": FLOW()}


def ltx():
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=1, caption_channels=TEXT,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    return {"transformer": transformer, "vae": vae, "scheduler": FLOW()}


def hunyuan():
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=65, out_channels=32, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_refiner_layers=1, text_embed_dim=TEXT, text_embed_2_dim=TEXT, image_embed_dim=TEXT,
        rope_axes_dim=(4, 4, 8), target_size=64, task_type="t2v",
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=32, block_out_channels=(32, 32, 32, 32, 32), layers_per_block=1
    )
    return {"transformer": transformer, "vae": vae, "scheduler": FLOW()}


def ernie():
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16, out_channels=16,
        text_in_dim=TEXT, rope_axes_dim=(4, 4, 8),
    )  # fmt: skip
    return {"transformer": transformer, "vae": kl_flux2(), "scheduler": FLOW()}


def krea2():
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=64, num_layers=1, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=TEXT, num_text_layers=12,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return {"transformer": transformer, "vae": video_vae(diffusers.AutoencoderKLQwenImage), "scheduler": FLOW()}


def qwen21():
    transformer = diffusers.QwenImage21Transformer2DModel(
        num_layers=1, attention_head_dim=16, num_attention_heads=2, context_in_dim=TEXT, axes_dims_rope=(4, 4, 8)
    )
    vae = diffusers.AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4, dim_mult=[1] * 5, num_res_blocks=1)
    return {"transformer": transformer, "vae": vae, "scheduler": FLOW()}


def helios():
    transformer = diffusers.HeliosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_dim=TEXT, freq_dim=16, ffn_dim=16, num_layers=1,
        rope_dim=(4, 6, 6),
    )  # fmt: skip
    return {"transformer": transformer, "vae": video_vae(), "scheduler": diffusers.HeliosScheduler(stages=1)}


def anima():
    transformer = diffusers.CosmosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=1.0, text_embed_dim=TEXT,
        adaln_lora_dim=4, max_size=(4, 32, 32), extra_pos_embed_type=None, concat_padding_mask=False,
    )  # fmt: skip
    conditioner = diffusers.AnimaTextConditioner(
        source_dim=TEXT, target_dim=TEXT, model_dim=TEXT, num_layers=1, num_attention_heads=2, target_vocab_size=128
    )
    vae = video_vae(diffusers.AutoencoderKLQwenImage)
    return {"transformer": transformer, "text_conditioner": conditioner, "vae": vae, "scheduler": FLOW()}


def cosmos3(**scheduler):
    transformer = diffusers.Cosmos3OmniTransformer(
        head_dim=16, hidden_size=32, intermediate_size=32, latent_channel=16, num_attention_heads=2,
        num_key_value_heads=1, num_hidden_layers=1, patch_latent_dim=64, vocab_size=520, rope_axes_dim=[4, 2, 2],
    )  # fmt: skip
    return {"transformer": transformer, "vae": video_vae(), "scheduler": UniPCMultistepScheduler(**FLOW_SHIFT)}


def cosmos3_distilled():
    return {**cosmos3(), "scheduler": FLOW()}


def flux3(**more):
    transformer = diffusers.Flux3Transformer2DModel(
        in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=TEXT, timestep_channels=16, axes_dims_rope=(4, 4, 4, 4), **more,
    )  # fmt: skip
    return {"transformer": transformer, "vae": kl_flux2(), "scheduler": FLOW()}


def flux3_distilled():
    return flux3(flow_map=True)


def ideogram4():
    transformer, unconditional = (
        diffusers.Ideogram4Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, intermediate_size=32,
            adaln_dim=8, llm_features_dim=13 * TEXT, mrope_section=(4, 2, 2),
        )
        for _ in range(2)
    )  # fmt: skip
    models = {"transformer": transformer, "unconditional_transformer": unconditional, "vae": kl_flux2()}
    return {**models, "scheduler": FLOW(), "prompt_enhancer_head": None}


def ltx2():
    from reslab.ltx2 import load  # its import takes a second: only where it is needed

    checkpoint = load("tiny", variant="LTX-2.3")
    return {**checkpoint.components, "prompt_enhancer": None, "processor": None, "duration_head": None}


def ltx25():
    parts = ltx2()
    parts["diffusion_decoder"] = diffusers.LTX2VideoDiffusionDecoderModel(
        latent_channels=parts["vae"].config.latent_channels, decoder_head_dim=16,
        decoder_stage_channels=(64, 32, 16, 16, 16), decoder_stage_depths=(1, 1, 1, 1, 1),
        decoder_upsample_channel_reductions=(2, 2, 1, 1), decoder_stage_kernels=((3, 1, 1),) * 4,
        decoder_stage5_kernel=(3, 3, 3), decoder_t_emb_dim=16,
    )  # fmt: skip
    return parts


def minimax():
    transformer = diffusers.MiniMaxH3Transformer3DModel(
        num_attention_heads=2, attention_head_dim=16, hidden_size=32, num_layers=1, num_refiner_layers=1, ffn_dim=32,
        in_channels=4, audio_in_channels=4, text_dim=TEXT, freq_dim=16, time_embed_hidden_dim=16, time_embed_dim=16,
        rope_freq_dim=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLMiniMaxH3(
        latent_channels=4, block_out_channels=(4, 4, 4, 4, 4, 4), layers_per_block=1, norm_num_groups=2,
        decoder_num_layers=1, decoder_num_attention_heads=2, decoder_attention_head_dim=16,
        latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4,
    )  # fmt: skip
    audio_vae = diffusers.AutoencoderKLMiniMaxH3Audio(
        encoder_dim=4, latent_dim=16, latent_channels=4, num_attention_heads=2, decoder_dim=128,
        resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3, 5),), latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    schedulers = {name: diffusers.MiniMaxH3Scheduler() for name in ("scheduler", "audio_scheduler")}
    return {"transformer": transformer, "vae": vae, "audio_vae": audio_vae, **schedulers}


POOLED = {"pooled_prompt_embeds": noise(1, 32), "negative_pooled_prompt_embeds": noise(1, 32) / 2}
ONES = torch.ones(1, TOKENS, dtype=torch.long)
MASKED = {"prompt_embeds_mask": ONES, "negative_prompt_embeds_mask": ONES}
BOOLEAN = {name: mask.bool() for name, mask in MASKED.items()}
NEGATIVE = {"negative_prompt_embeds": noise(1, TOKENS, TEXT) / 2}
SECOND = {"prompt_embeds_2": noise(1, TOKENS, TEXT), "prompt_embeds_mask_2": ONES}
LISTED = {"prompt_embeds": [noise(TOKENS, TEXT)], "negative_prompt_embeds": [noise(TOKENS, TEXT) / 2]}

LAYERED = {"prompt_embeds": noise(1, TOKENS, 12, TEXT), "negative_prompt_embeds": noise(1, TOKENS, 12, TEXT) / 2}
PADDED = {"image_pad_mask": ~ONES.bool(), "negative_image_pad_mask": ~ONES.bool()}
QWEN_AND_T5 = {
    f"{sign}{name}": value
    for sign in ("", "negative_")
    for name, value in {
        "qwen_prompt_embeds": noise(1, TOKENS, TEXT), "qwen_attention_mask": ONES,
        "t5_input_ids": torch.arange(TOKENS)[None], "t5_attention_mask": ONES,
    }.items()
}  # fmt: skip

#: Settings without which diffusers does not run: that checker of Cosmos' prompts is a package and a download.
UNCHECKED = {"enable_safety_checker": False}
CONFIG = {
    "Cosmos3OmniBlocks": UNCHECKED,
    "Cosmos3DistilledBlocks": {**UNCHECKED, "distilled_sigmas": [1.0, 0.5]},  # as its checkpoint's index has them
}

#: Components and request by the name of diffusers' blocks.
MODELS = {
    "FluxAutoBlocks": (flux, pictures(pooled_prompt_embeds=noise(1, 32))),
    "FluxKontextAutoBlocks": (flux, pictures(pooled_prompt_embeds=noise(1, 32))),
    "Flux2AutoBlocks": (flux2, pictures()),
    "Flux2KleinAutoBlocks": (klein, pictures()),
    "Flux2KleinBaseAutoBlocks": (klein, pictures(**NEGATIVE)),
    "QwenImageAutoBlocks": (qwen, pictures(**MASKED, **NEGATIVE)),
    "QwenImageEditPlusAutoBlocks": (qwen, pictures(**MASKED, **NEGATIVE, image=image())),
    "StableDiffusion3AutoBlocks": (stable_diffusion_3, pictures(**POOLED, **NEGATIVE)),
    "StableDiffusionXLAutoBlocks": (stable_diffusion_xl, pictures(**POOLED, **NEGATIVE)),
    "WanBlocks": (wan, frames(**NEGATIVE)),
    "Wan22Blocks": (wan22, frames(**NEGATIVE)),
    "WanImage2VideoAutoBlocks": (wan_image, frames(**NEGATIVE, image=image(), image_embeds=noise(1, 4, TEXT))),
    "Wan22Image2VideoBlocks": (wan22_image, frames(**NEGATIVE, image=image())),
    "Wan22VaceBlocks": (wan_vace, frames(**NEGATIVE)),
    "ZImageAutoBlocks": (z_image, pictures(**LISTED)),
    "LTXAutoBlocks": (ltx, frames(**NEGATIVE, prompt_attention_mask=ONES, negative_prompt_attention_mask=ONES)),
    "HunyuanVideo15AutoBlocks": (
        hunyuan,
        frames(**MASKED, **NEGATIVE, **SECOND, **{f"negative_{name}": value for name, value in SECOND.items()}),
    ),
    "ErnieImageAutoBlocks": (ernie, pictures(**LISTED)),
    "Krea2AutoBlocks": (krea2, pictures(**BOOLEAN, **LAYERED)),
    "Krea2TurboAutoBlocks": (
        krea2,
        pictures(prompt_embeds_mask=ONES.bool(), prompt_embeds=LAYERED["prompt_embeds"]),
    ),
    "QwenImage21AutoBlocks": (qwen21, pictures(**MASKED, **NEGATIVE, **PADDED)),
    "QwenImage21TurboAutoBlocks": (qwen21, pictures(prompt_embeds_mask=ONES, image_pad_mask=~ONES.bool())),
    "Cosmos3OmniBlocks": (cosmos3, asked(num_frames=5, fps=8.0)),
    "Cosmos3DistilledBlocks": (cosmos3_distilled, asked(num_frames=5, fps=8.0)),
    "Flux3AutoBlocks": (flux3, asked()),
    "Flux3DistilledAutoBlocks": (flux3_distilled, asked()),
    "Ideogram4AutoBlocks": (ideogram4, asked(guidance_schedule=(7.0, 3.0))),
    "LTX2AutoBlocks": (ltx2, asked(num_frames=9)),
    "LTX25AutoBlocks": (ltx25, asked(num_frames=9)),
    "MiniMaxH3Blocks": (minimax, asked(num_frames=124)),  # five seconds, the least that it makes
    "HeliosAutoBlocks": (helios, frames(**NEGATIVE)),
    "AnimaAutoBlocks": (
        anima,
        asked(**QWEN_AND_T5),
    ),
}
