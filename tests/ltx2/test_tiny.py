"""Tiny models have the true geometry, and weights that make mistakes visible."""

import pytest
import torch
from diffusers import LTX2Pipeline, LTX2VideoTransformer3DModel
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from reslab.ltx2._checkpoint._configs import COMPONENTS, config
from reslab.ltx2._checkpoint._small_configs import SIZES, small_config
from reslab.ltx2._checkpoint._small_models import byte_tokenizer, lora_layers, small

# What may be smaller: widths, depths, and the ids and sizes that follow from a smaller vocabulary or image.
SHRUNK = {
    *("num_layers", "in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "cross_attention_dim"),
    *("audio_in_channels", "audio_out_channels", "audio_num_attention_heads", "audio_attention_head_dim"),
    *("audio_cross_attention_dim", "caption_channels", "text_proj_in_factor", "video_hidden_dim", "audio_hidden_dim"),
    *(f"{kind}_connector_{size}" for kind in ("video", "audio") for size in ("num_layers", "attention_head_dim")),
    *("video_connector_num_attention_heads", "audio_connector_num_attention_heads"),
    *("latent_channels", "block_out_channels", "layers_per_block"),
    *("decoder_block_out_channels", "decoder_layers_per_block", "base_channels", "ch_mult", "num_res_blocks"),
    *("mel_bins", "num_mel_channels", "mid_channels", "num_blocks_per_stage", "hidden_channels", "bwe_in_channels"),
    *("bwe_hidden_channels", "resnet_kernel_sizes", "resnet_dilations", "bwe_resnet_kernel_sizes"),
    *("bwe_resnet_dilations", "text_config", "vision_config", "boi_token_index", "eoi_token_index", "eos_token_id"),
    *("image_token_index", "mm_tokens_per_image"),
}


@pytest.mark.parametrize("component", [name for name in COMPONENTS if name != "tokenizer"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3", "LTX-2.3 distilled"])
def test_only_widths_and_depths_are_shrunk(name, component, size):
    smaller, released = small_config(name, component, size), config(name, component)
    assert smaller.keys() == released.keys()
    changed = {key for key in smaller if smaller[key] != released[key]}
    assert changed <= SHRUNK
    assert not any(isinstance(smaller[key], (bool, str)) for key in changed)


def test_mid_size_models_are_heavy_where_the_released_ones_are():
    with torch.device("meta"):
        transformer = LTX2VideoTransformer3DModel(**small_config("LTX-2.3", "transformer", "mid"))
        text_encoder = Gemma3ForConditionalGeneration(Gemma3Config(**small_config("LTX-2.3", "text_encoder", "mid")))
    weights = [sum(each.nbytes for each in part.parameters()) for part in (text_encoder, transformer)]
    assert 50e6 < weights[0] < weights[1]
    assert 200e6 < weights[1] < 500e6


def test_the_released_compression_is_kept(checkpoint):
    vae, audio_vae = checkpoint.components["vae"], checkpoint.components["audio_vae"]
    with torch.no_grad():
        video = vae.encode(torch.zeros(1, 3, 9, 64, 128)).latent_dist.mode()
        sound = audio_vae.decode(torch.zeros(1, 2, 5, 4), return_dict=False)[0]
    assert video.shape[2:] == (2, 2, 4)  # (9 - 1) / 8 + 1, 64 / 32, 128 / 32
    assert sound.shape == (1, 2, 17, 16)  # 4 × 5 − 3 mel frames, causal


def test_latent_statistics_are_not_trivial(checkpoint):
    for name in ("vae", "audio_vae"):
        part = checkpoint.components[name]
        assert part.latents_mean.std() > 0.2
        assert part.latents_std.std() > 0.1
        assert 0.5 < part.latents_std.min() < part.latents_std.max() < 1.5
    assert checkpoint.components["vae"].config.scaling_factor == 1.25


def test_stg_blocks_lie_inside_the_depth(tiny_ltx2, tiny_ltx23, tiny_distilled):
    assert (tiny_ltx2.stg_blocks, tiny_ltx23.stg_blocks, tiny_distilled.stg_blocks) == ((2,), (2,), ())
    assert tiny_ltx23.components["transformer"].config.num_layers == 4


def test_equal_seeds_give_equal_weights_and_others_do_not():
    first, again, other = small("LTX-2.3"), small("LTX-2.3"), small("LTX-2.3", seed=1)
    for name, module in first.modules.items():
        same, different = again.modules[name].state_dict(), other.modules[name].state_dict()
        assert all(torch.equal(value, same[key]) for key, value in module.state_dict().items())
        assert any(not torch.equal(value, different[key]) for key, value in module.state_dict().items())
    assert all(torch.equal(value, again.distilled_lora[key]) for key, value in first.distilled_lora.items())


def test_every_weight_is_finite_and_every_layer_differs(checkpoint):
    for module in checkpoint.modules.values():
        for name, parameter in module.named_parameters():
            assert torch.isfinite(parameter).all(), name
            zeroed = name.endswith("conv_out.bias") or name == "decoder.conv_out.conv.bias"
            assert zeroed or parameter.numel() == 1 or parameter.std() > 0, name


def test_the_tiny_lora_reaches_attention_and_feed_forward_and_changes_the_output(tiny_ltx23):
    layers = lora_layers(small("LTX-2.3").components["transformer"])
    assert {
        f"transformer_blocks.3.{part}" for part in ("attn1.to_q", "audio_to_video_attn.to_out.0", "ff.net.2")
    } <= set(layers)
    ups = [value for key, value in tiny_ltx23.distilled_lora.items() if "lora_B" in key]
    assert len(ups) == len(layers)
    assert all(up.abs().max() > 0 for up in ups)


def test_the_tokenizer_encodes_any_text_and_pads_left():
    tokenizer = byte_tokenizer()
    ids = tokenizer("Reiher über 日本", padding="max_length", max_length=128).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace("▁", " ") == "Reiher über 日本"
    assert ids[0] == tokenizer.pad_token_id == 0
    assert tokenizer("x" * 600, truncation=True, max_length=tokenizer.model_max_length).input_ids == [125] * 256


def test_a_run_shows_variation_and_no_nan(checkpoint):
    parts = {name: part for name, part in checkpoint.components.items() if name != "latent_upsampler"}
    pipe = LTX2Pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    sides = {"": checkpoint.variant.video, "audio_": checkpoint.variant.audio}
    guidance = {"spatio_temporal_guidance_blocks": list(checkpoint.stg_blocks)}
    for side, strengths in sides.items():  # each is given: what is left out is switched on
        guidance |= {f"{side}guidance_scale": strengths.cfg, f"{side}stg_scale": strengths.stg}
        guidance |= {f"{side}modality_scale": strengths.modality, f"{side}guidance_rescale": strengths.rescale}
    video, audio = pipe(
        prompt="a heron over a weir",
        width=128,
        height=64,
        num_frames=9,
        num_inference_steps=2,
        max_sequence_length=128,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        return_dict=False,
        use_cross_timestep=checkpoint.variant.use_cross_timestep,
        **guidance,
    )
    assert video.shape == (1, 9, 64, 128, 3)
    assert video.std() > 0.1  # of a range of 1
    assert video[0].std(axis=0).mean() > 0.05  # frames differ
    assert torch.isfinite(audio).all()
    assert audio.abs().mean(dim=-1).min() > 0.01
    assert audio.mean().abs() < 0.1
    assert (audio.abs() < 0.999).float().mean() > 0.9  # hardly clipped
