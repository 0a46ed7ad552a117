"""The distilled LoRA: it fits or is refused, and at strength 0 it changes no bit."""

import pytest
import torch
from safetensors.torch import save_file

from reslab.ltx2._checkpoint._lora import add_lora, check_lora, read_lora, set_strength
from reslab.ltx2._checkpoint._small_models import small, small_lora


@pytest.fixture(scope="module")
def model():
    return small("LTX-2.3")


def forward(transformer) -> torch.Tensor:
    """Video and audio velocity for fixed inputs, in one vector."""
    generator = torch.Generator().manual_seed(1)
    video, audio, text, sound = (
        torch.randn(shape, generator=generator) for shape in ((1, 16, 8), (1, 10, 8), (1, 128, 32), (1, 128, 16))
    )
    with torch.no_grad():
        parts = transformer(
            hidden_states=video,
            audio_hidden_states=audio,
            encoder_hidden_states=text,
            audio_encoder_hidden_states=sound,
            timestep=torch.tensor([500.0]),
            sigma=torch.tensor([500.0]),
            num_frames=2,
            height=2,
            width=4,
            fps=24.0,
            audio_num_frames=10,
            return_dict=False,
        )
    return torch.cat([part.flatten() for part in parts])


def test_strength_changes_the_output_and_zero_takes_it_back_bit_for_bit(model):
    transformer = model.components["transformer"]
    base = forward(transformer)
    add_lora(transformer, model.distilled_lora)
    assert torch.equal(forward(transformer), base)
    set_strength(transformer, 1.0)
    full = forward(transformer)
    set_strength(transformer, 0.5)
    half = forward(transformer)
    set_strength(transformer, 0.0)
    assert torch.equal(forward(transformer), base)
    assert (full - base).std() > 0.05 * base.std()
    assert 0.3 < (half - base).std() / (full - base).std() < 0.7
    set_strength(transformer, 1.0)
    assert torch.equal(forward(transformer), full)
    set_strength(transformer, 0.0)


def test_the_update_is_strength_times_b_times_a():
    single = small("LTX-2.3")
    transformer, layer = single.components["transformer"], "transformer_blocks.1.ff.net.2"
    state = {key: value for key, value in single.distilled_lora.items() if f".{layer}." in key}
    down, up = (state[f"transformer.{layer}.{part}.weight"] for part in ("lora_A", "lora_B"))
    x = torch.ones(1, down.shape[1])
    base = transformer.get_submodule(layer)(x)
    add_lora(transformer, state)
    set_strength(transformer, 0.5)
    torch.testing.assert_close(transformer.get_submodule(layer)(x), base + 0.5 * x @ down.T @ up.T)


def test_adding_the_same_lora_again_changes_nothing_and_another_is_refused():
    single = small("LTX-2.3")
    transformer = single.components["transformer"]
    add_lora(transformer, single.distilled_lora)
    count = sum(1 for _ in transformer.parameters())
    add_lora(transformer, single.distilled_lora)
    assert sum(1 for _ in transformer.parameters()) == count
    with pytest.raises(ValueError, match="has another LoRA named 'distilled'"):
        add_lora(transformer, dict(single.distilled_lora))


def test_another_adapter_stays_as_it_is():
    single = small("LTX-2.3")
    transformer = single.components["transformer"]
    style = {key: value.clone() for key, value in small_lora(transformer, seed=5).items()}
    add_lora(transformer, style, name="style")
    set_strength(transformer, 0.7, name="style")
    styled = forward(transformer)
    add_lora(transformer, single.distilled_lora)
    assert torch.equal(forward(transformer), styled)
    set_strength(transformer, 1.0)
    assert not torch.equal(forward(transformer), styled)
    set_strength(transformer, 0.0)
    assert torch.equal(forward(transformer), styled)


def test_base_weights_are_never_written(model):
    transformer = small("LTX-2.3").components["transformer"]
    before = {id(parameter): parameter.clone() for parameter in transformer.parameters()}
    add_lora(transformer, model.distilled_lora)
    set_strength(transformer, 1.0)
    forward(transformer)
    kept = [parameter for parameter in transformer.parameters() if id(parameter) in before]
    assert len(kept) == len(before)
    assert all(torch.equal(parameter, before[id(parameter)]) for parameter in kept)


LAYER = "transformer.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "This LoRA is empty"),
        ({"transformer.blocks.0.q.lora_A.weight": torch.zeros(4, 32)}, "there is no layer 'blocks.0.q'"),
        ({"unet.to_q.lora_A.weight": torch.zeros(4, 32)}, "'unet.to_q.lora_A.weight' is not 'transformer.<layer>"),
        ({f"{LAYER}.lora_A.weight": torch.zeros(4, 32)}, "has lora_A.weight but not its partner"),
        (
            {f"{LAYER}.lora_A.weight": torch.zeros(4, 64), f"{LAYER}.lora_B.weight": torch.zeros(32, 4)},
            r"needs \(4, 32\), got \(4, 64\).*such as 'proj_in' \(32, 8\)",
        ),
        (
            {f"{LAYER}.lora_A.weight": torch.zeros(4, 32), f"{LAYER}.lora_B.weight": torch.zeros(32, 2)},
            r"needs \(32, 4\), got \(32, 2\)",
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_and_nothing_is_added(state, message):
    transformer = small("LTX-2.3").components["transformer"]
    with pytest.raises(ValueError, match=message):
        add_lora(transformer, state)
    assert not getattr(transformer, "peft_config", {})


def test_a_lora_of_ltx2_does_not_fit_ltx23(tiny_ltx2):
    with pytest.raises(ValueError, match=r"tensors belong to no layer \(there is no layer 'caption_projection"):
        check_lora(small("LTX-2.3").components["transformer"], tiny_ltx2.distilled_lora)


def test_diffusers_itself_drops_a_lora_that_fits_no_layer_without_an_error():
    transformer = small("LTX-2.3").components["transformer"]
    foreign = {"other.to_q.lora_A.weight": torch.zeros(4, 32), "other.to_q.lora_B.weight": torch.zeros(32, 4)}
    transformer.load_lora_adapter(foreign, prefix="transformer", adapter_name="foreign")
    assert not getattr(transformer, "peft_config", {})


def test_switching_on_what_was_never_added_is_an_error_and_off_is_not():
    transformer = small("LTX-2.3").components["transformer"]
    set_strength(transformer, 0.0)
    with pytest.raises(ValueError, match="no LoRA named 'distilled'; add it with add_lora first"):
        set_strength(transformer, 1.0)


def test_a_file_of_the_original_repository_is_read_with_its_layers_renamed(tmp_path):
    down, up = torch.randn(4, 32), torch.randn(288, 4)
    save_file(
        {
            "diffusion_model.adaln_single.linear.lora_A.weight": down,
            "diffusion_model.adaln_single.linear.lora_B.weight": up,
            "text_embedding_projection.aggregate_embed.lora_A.weight": torch.zeros(4, 32),
            "text_embedding_projection.aggregate_embed.lora_B.weight": torch.zeros(32, 4),
        },
        tmp_path / "lora.safetensors",
    )
    transformer = small("LTX-2.3").components["transformer"]
    state = read_lora(tmp_path / "lora.safetensors", transformer)
    assert list(state) == ["transformer.time_embed.linear.lora_A.weight", "transformer.time_embed.linear.lora_B.weight"]
    assert torch.equal(state["transformer.time_embed.linear.lora_B.weight"], up)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in state.values())
    check_lora(transformer, state)
