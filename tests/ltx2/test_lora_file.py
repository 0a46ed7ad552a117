"""A LoRA file is applied as it says, or refused: scale, every key, and what is no plain LoRA."""

import json
import logging
import math

import pytest
import torch
from diffusers import LTX2Pipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from reslab import ltx2, residency
from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._checkpoint._lora import add_lora, read_lora, set_strength
from reslab.ltx2._checkpoint._small_models import small
from reslab.ltx2._checkpoint._write import write

LAYER = "transformer_blocks.0.attn1.to_q"
OTHER = "transformer_blocks.1.attn1.to_k"


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_ltx23):
    return write(tiny_ltx23, tmp_path_factory.mktemp("lora") / "checkpoint")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, tiny_distilled):
    return write(tiny_distilled, tmp_path_factory.mktemp("lora") / "distilled")


@pytest.fixture(scope="module")
def transformer():
    """Layers to read files for; not to be changed."""
    return small("LTX-2.3").components["transformer"]


def pair(name, rank=4, seed=0, parts=("lora_A.weight", "lora_B.weight")):
    """Draw both matrices of one 32 to 32 layer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (rank, 32), (32, rank)
    return {
        f"{name}.{part}": torch.randn(shape, generator=generator) for part, shape in zip(parts, shapes, strict=True)
    }


def saved(folder, state, metadata=None, name="lora.safetensors"):
    save_file(state, folder / name, metadata=metadata)
    return folder / name


def update(state, layer=LAYER):
    """The matrix that a LoRA adds to a layer at strength 1."""
    down, up = (state[f"transformer.{layer}.{part}.weight"] for part in ("lora_A", "lora_B"))
    return up @ down


def adapter(**options):
    """Metadata as diffusers writes it."""
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in options.items()})}


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"r": 4, "lora_alpha": 16}, 4.0),
        ({"r": 4, "lora_alpha": 2}, 0.5),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),  # 8 / sqrt(4)
        ({"r": 4, "lora_alpha": 16, "alpha_pattern": {"attn1.to_q": 12}}, 3.0),
        ({"r": 4, "lora_alpha": 16, "alpha_pattern": {"attn2.to_q": 12}}, 4.0),
        ({"r": 8, "rank_pattern": {f"^{LAYER}": 4}, "lora_alpha": 16}, 4.0),
        ({"r": 4}, 2.0),  # PEFT's own default: alpha 8
    ],
    ids=str,
)
def test_alpha_in_the_metadata_of_diffusers_is_the_scale(tmp_path, transformer, options, scale):
    state = pair(f"transformer.{LAYER}")
    file = saved(tmp_path, state, adapter(**options))
    torch.testing.assert_close(update(read_lora(file, transformer)), scale * update(state))


def test_diffusers_and_load_give_a_file_that_diffusers_saved_the_same_scale(tmp_path, written):
    options = LoraConfig(r=4, lora_alpha=16, target_modules=[LAYER]).to_dict()
    LTX2Pipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=pair(LAYER), transformer_lora_adapter_metadata=options
    )
    theirs = LTX2Pipeline.from_pretrained(written, dtype=torch.float32, local_files_only=True)
    theirs.load_lora_weights(tmp_path, adapter_name="theirs")
    layer = theirs.transformer.get_submodule(LAYER)
    assert layer.scaling == {"theirs": 4.0}
    checkpoint = load(written, lora=tmp_path, progress=False)
    ours = checkpoint.components["transformer"]
    add_lora(ours, checkpoint.distilled_lora)
    set_strength(ours, 1.0)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.get_submodule(LAYER)(x), layer(x))


def test_what_peft_saves_in_a_folder_keeps_its_alpha(tmp_path, transformer):
    state = pair(f"base_model.model.{LAYER}")
    saved(tmp_path, state, name="adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter_model.safetensors.* adapter_config.json"):
        read_lora(tmp_path, transformer)
    (tmp_path / "adapter_config.json").write_text(json.dumps(LoraConfig(r=4, lora_alpha=12).to_dict()))
    expected = 3 * update({key.replace("base_model.model", "transformer"): value for key, value in state.items()})
    torch.testing.assert_close(update(read_lora(tmp_path, transformer)), expected)


@pytest.mark.parametrize(
    "prefix", ["transformer.", "diffusion_model.", "model.diffusion_model.", "", "lora_unet_"], ids=repr
)
@pytest.mark.parametrize("parts", [("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")])
def test_every_naming_that_means_one_layer_is_read_with_its_alpha(tmp_path, transformer, prefix, parts):
    name = f"{prefix}{LAYER.replace('.', '_') if prefix == 'lora_unet_' else LAYER}"
    state = pair(name, parts=parts)
    file = saved(tmp_path, state | {f"{name}.alpha": torch.tensor(8.0)})
    found = read_lora(file, transformer)
    assert list(found) == [f"transformer.{LAYER}.lora_A.weight", f"transformer.{LAYER}.lora_B.weight"]
    torch.testing.assert_close(update(found), 2 * state[f"{name}.{parts[1]}"] @ state[f"{name}.{parts[0]}"])


def test_outer_layers_are_renamed_in_the_naming_of_the_original_repository_and_of_kohya(tmp_path, transformer):
    for name in ("diffusion_model.patchify_proj", "lora_unet_patchify_proj"):
        file = saved(tmp_path, {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(32, 4)})
        assert next(iter(read_lora(file, transformer))) == "transformer.proj_in.lora_A.weight"


def test_alpha_is_a_layers_own_and_so_is_its_rank(tmp_path):
    transformer = small("LTX-2.3").components["transformer"]
    state = pair(f"diffusion_model.{LAYER}", rank=4) | pair(f"diffusion_model.{OTHER}", rank=8, seed=1)
    alphas = {f"diffusion_model.{LAYER}.alpha": torch.tensor(8.0)}
    found = read_lora(saved(tmp_path, state | alphas), transformer)
    plain = {key.replace("diffusion_model", "transformer"): value for key, value in state.items()}
    torch.testing.assert_close(update(found), 2 * update(plain))
    torch.testing.assert_close(update(found, OTHER), update(plain, OTHER))  # without an alpha: 1
    add_lora(transformer, found)
    set_strength(transformer, 1.0)
    x = torch.ones(1, 32)
    for name in (LAYER, OTHER):
        layer = transformer.get_submodule(name)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ update(found, name).T)


def test_the_scale_is_folded_in_before_rounding_and_written_once(tmp_path, written):
    state = pair(f"transformer.{LAYER}")
    file = saved(tmp_path, state, adapter(r=4, lora_alpha=3))
    loaded = load(written, lora=file, dtype=torch.bfloat16, progress=False)
    up = loaded.distilled_lora[f"transformer.{LAYER}.lora_B.weight"]
    assert torch.equal(up, (0.75 * state[f"transformer.{LAYER}.lora_B.weight"]).bfloat16())
    again = load(write(loaded, tmp_path / "again"), dtype=torch.bfloat16, progress=False)
    assert torch.equal(again.distilled_lora[f"transformer.{LAYER}.lora_B.weight"], up)


def test_merged_and_added_on_the_fly_have_the_same_scale(tmp_path, written):
    up = torch.randn(32, 4, generator=torch.Generator().manual_seed(3)) * 0.05
    state = pair(f"transformer.{LAYER}") | {f"transformer.{LAYER}.lora_B.weight": up}
    request = {"prompt": "a heron", "width": 64, "height": 64, "num_frames": 9, "max_sequence_length": 128, "seed": 7}
    found = {}
    for name, metadata in (("plain", None), ("scaled", adapter(r=4, lora_alpha=16))):
        checkpoint = load(written, lora=saved(tmp_path, state, metadata, f"{name}.safetensors"), progress=False)
        for lora in ("dynamic", "merged"):
            pipe = ltx2.two_stage(checkpoint)
            pipe.result = "refine_latents"
            with residency.apply(pipe, residency.Plan.of({"lora": lora})):
                found[name, lora] = pipe.run(**request, num_inference_steps=2)
    torch.testing.assert_close(found["scaled", "merged"], found["scaled", "dynamic"], rtol=1e-4, atol=1e-4)
    assert (found["scaled", "dynamic"] - found["plain", "dynamic"]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (adapter(r=8, lora_alpha=16), r"rank 8.* rank 4|rank 4.* rank 8"),
        (adapter(r=4, lora_alpha=16, use_dora=True), "DoRA"),
        (adapter(r=4, lora_alpha=16, lora_bias=True), "lora_bias"),
        (adapter(r=4, lora_alpha=16, init_lora_weights="pissa"), "init_lora_weights='pissa'"),
        (adapter(r=4, lora_alpha="much"), "lora_alpha"),
        (adapter(r=4, lora_alpha=True), "lora_alpha"),
        (adapter(r=4, lora_alpha=-4), "lora_alpha"),
        (adapter(r=4, lora_alpha=math.inf), "lora_alpha"),
        (adapter(r=4, lora_alpha=4, alpha_pattern=[1]), "alpha_pattern"),
        (adapter(r=4, lora_alpha=4, alpha_pattern={"(a+)+b": 2}), "alpha_pattern"),
        (adapter(r=4, lora_alpha=4, peft_type="LOKR"), "LOKR"),
        ({"lora_adapter_metadata": "{"}, "lora_adapter_metadata"),
        ({"lora_adapter_metadata": "[]"}, "lora_adapter_metadata"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"ss_network_alpha": "8.0", "ss_network_dim": "4"}, "ss_network_alpha"),
        ({"ss_network_alpha": "many"}, "ss_network_alpha"),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_kept_to_are_refused_by_name(tmp_path, transformer, metadata, message):
    file = saved(tmp_path, pair(f"transformer.{LAYER}"), metadata)
    with pytest.raises(ValueError, match=rf"(?s)lora.safetensors.*({message})"):
        read_lora(file, transformer)


@pytest.mark.parametrize(
    "metadata",
    [{"ss_network_alpha": "4.0", "ss_network_dim": "4"}, {"lora_alpha": "4"}, {"ss_network_alpha": "None"}, {"a": "b"}],
    ids=str,
)
def test_an_alpha_that_is_the_rank_is_a_scale_of_one(tmp_path, transformer, metadata):
    state = pair(f"transformer.{LAYER}")
    torch.testing.assert_close(update(read_lora(saved(tmp_path, state, metadata), transformer)), update(state))


def test_alphas_beside_the_weights_are_what_kohyas_metadata_repeat(tmp_path, transformer):
    name = f"lora_unet_{LAYER.replace('.', '_')}"
    state = pair(name, parts=("lora_down.weight", "lora_up.weight")) | {f"{name}.alpha": torch.tensor(8)}
    file = saved(tmp_path, state, {"ss_network_alpha": "8", "ss_network_dim": "4"})
    expected = 2 * state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
    torch.testing.assert_close(update(read_lora(file, transformer)), expected)


def test_two_alphas_that_disagree_are_refused(tmp_path, transformer):
    state = pair(f"transformer.{LAYER}") | {f"transformer.{LAYER}.alpha": torch.tensor(8.0)}
    with pytest.raises(ValueError, match=r"scale 4, .*scale 2"):
        read_lora(saved(tmp_path, state, adapter(r=4, lora_alpha=16)), transformer)
    assert read_lora(saved(tmp_path, state, adapter(r=4, lora_alpha=8)), transformer)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan, [1.0, 2.0], True], ids=repr)
def test_an_alpha_that_is_no_positive_number_is_refused(tmp_path, transformer, alpha):
    state = pair(f"transformer.{LAYER}") | {f"transformer.{LAYER}.alpha": torch.tensor(alpha)}
    with pytest.raises(ValueError, match=rf"lora.safetensors: 'transformer.{LAYER}.alpha' .* positive number"):
        read_lora(saved(tmp_path, state), transformer)


def test_both_prefixes_in_one_file_are_read_and_what_is_no_lora_is_named(tmp_path, transformer):
    state = pair(f"diffusion_model.{LAYER}") | pair(f"transformer.{OTHER}", seed=1)
    assert len(read_lora(saved(tmp_path, state), transformer)) == 4
    with pytest.raises(ValueError, match=r"lora.safetensors.* 'anything.at.all'"):
        read_lora(saved(tmp_path, state | {"anything.at.all": torch.zeros(1)}), transformer)


def test_two_keys_for_one_layer_are_refused(tmp_path, transformer):
    state = pair(f"diffusion_model.{LAYER}") | pair(f"transformer.{LAYER}", seed=1)
    with pytest.raises(ValueError, match=rf"'diffusion_model.{LAYER}.lora_A.weight' and 'transformer.{LAYER}"):
        read_lora(saved(tmp_path, state), transformer)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"transformer.{LAYER}.dora_scale", "DoRA"),
        (f"diffusion_model.{LAYER}.dora_scale", "DoRA"),
        (f"transformer.{LAYER}.lora_magnitude_vector.weight", "DoRA"),
        (f"diffusion_model.{LAYER}.diff", "full weight"),
        (f"diffusion_model.{LAYER}.diff_b", "bias"),
        (f"transformer.{LAYER}.lora_B.bias", "bias"),
        (f"lora_unet_{LAYER.replace('.', '_')}.hada_w1_a", "LoHa"),
        (f"lora_unet_{LAYER.replace('.', '_')}.lokr_w1", "LoKr"),
        (f"lora_unet_{LAYER.replace('.', '_')}.oft_blocks", "OFT"),
        ("lora_te_text_model_encoder_layers_0.lora_down.weight", "text encoder"),
        ("text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight", "text encoder"),
        (f"transformer.{LAYER}.alphas", "alphas"),
        (f"transformer.{OTHER}.alpha", f"{OTHER}.alpha"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_what_is_not_applied_is_refused_by_name(tmp_path, transformer, key, kind, alone):
    state = {} if alone else pair(f"transformer.{LAYER}")
    with pytest.raises(ValueError, match=rf"lora.safetensors.*{kind}") as error:
        read_lora(saved(tmp_path, state | {key: torch.ones(1)}), transformer)
    assert repr(key) in str(error.value)


def test_names_that_no_layer_has_are_refused_by_their_naming(tmp_path, transformer):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    with pytest.raises(ValueError, match=rf"(?s)kohya.*{name}") as error:
        read_lora(saved(tmp_path, pair(name, parts=("lora_down.weight", "lora_up.weight"))), transformer)
    assert "made for this variant" not in str(error.value)
    with pytest.raises(ValueError, match=r"there is no layer 'double_blocks.0'.*made for this variant"):
        read_lora(saved(tmp_path, pair("diffusion_model.double_blocks.0")), transformer)


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q",
        "diffusion_model.audio_embeddings_connector.transformer_1d_blocks.0.attn1.to_q",
        "text_embedding_projection.aggregate_embed",
        "connectors.video_connector.transformer_blocks.0.attn1.to_q",
        "lora_unet_video_embeddings_connector_transformer_1d_blocks_0_attn1_to_q",
    ],
)
def test_updates_of_the_connectors_are_left_out_and_said_under_every_naming(tmp_path, transformer, caplog, name):
    caplog.set_level(logging.WARNING)
    file = saved(tmp_path, pair(f"transformer.{LAYER}") | pair(name, seed=1))
    assert len(read_lora(file, transformer)) == 2
    assert "left out 2 tensors of the connectors" in caplog.text
    with pytest.raises(ValueError, match=r"lora.safetensors.* connectors alone"):
        read_lora(saved(tmp_path, pair(name)), transformer)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_lora_of_whole_numbers_is_refused(tmp_path, transformer, dtype):
    state = {key: value.to(dtype) for key, value in pair(f"transformer.{LAYER}").items()}
    with pytest.raises(ValueError, match=rf"lora.safetensors.*{LAYER}.lora_A.weight.*(I64|BOOL)"):
        read_lora(saved(tmp_path, state), transformer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_a_lora_in_any_float_is_read(tmp_path, transformer, dtype):
    state = {key: value.to(dtype) for key, value in pair(f"transformer.{LAYER}").items()}
    found = read_lora(saved(tmp_path, state, adapter(r=4, lora_alpha=8)), transformer, dtype=torch.float32)
    expected = update({key: value.float() for key, value in state.items()})
    torch.testing.assert_close(update(found), 2 * expected)


def test_a_folder_holds_one_lora_or_its_choices_are_named(tmp_path, transformer):
    saved(tmp_path, pair(f"transformer.{LAYER}"), name="pytorch_lora_weights.safetensors")
    assert len(read_lora(tmp_path, transformer)) == 2
    saved(tmp_path, pair(f"transformer.{LAYER}"), name="step_500.safetensors")
    with pytest.raises(ValueError, match=r"pytorch_lora_weights.safetensors, step_500.safetensors"):
        read_lora(tmp_path, transformer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no safetensors file"):
        read_lora(tmp_path / "empty", transformer)
    torch.save(pair(f"transformer.{LAYER}"), tmp_path / "empty" / "pytorch_lora_weights.bin")
    with pytest.raises(ValueError, match=r"pytorch_lora_weights.bin.* pickled"):
        read_lora(tmp_path / "empty", transformer)


def damaged(folder, kind):
    """A file that is no LoRA."""
    file = saved(folder, pair(f"transformer.{LAYER}"))
    if kind == "pickle":
        torch.save(pair(f"transformer.{LAYER}"), file)
    elif kind == "empty file":
        file.write_bytes(b"")
    elif kind == "no tensors":
        save_file({}, file)
    elif kind == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "gguf":
        file.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(16))
    else:
        file.write_bytes(file.read_bytes()[: {"header": 20, "data": -10}[kind]])
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "pickled"),
        ("empty file", "is empty"),
        ("no tensors", "no tensor"),
        ("pointer", "Git LFS"),
        ("gguf", "GGUF"),
        ("header", "truncated or damaged"),
        ("data", "truncated or damaged"),
    ],
)
def test_a_file_that_is_none_is_named_before_weights_are_read(tmp_path, written, monkeypatch, kind, message):
    monkeypatch.setattr("reslab.ltx2._checkpoint._load.read_component", None)
    with pytest.raises(ValueError, match=rf"lora.safetensors.*{message}"):
        load(written, lora=damaged(tmp_path, kind), progress=False)


def test_a_whole_model_is_no_lora(tmp_path, written):
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors.* no LoRA"):
        load(written, lora=written / "transformer" / "diffusion_pytorch_model.safetensors", progress=False)


def test_a_lora_that_does_not_fit_is_refused_before_weights_are_read(tmp_path, written, monkeypatch):
    monkeypatch.setattr("reslab.ltx2._checkpoint._load.read_component", None)
    file = saved(tmp_path, {f"transformer.{LAYER}.lora_A.weight": torch.zeros(4, 64)})
    with pytest.raises(ValueError, match=r"has lora_A.weight but not its partner"):
        load(written, lora=file, progress=False)


def test_a_given_lora_is_never_ignored(tmp_path, written, distilled):
    good = saved(tmp_path, pair(f"transformer.{LAYER}"))
    with pytest.raises(ValueError, match=r"LTX-2.3 distilled .*lora"):
        load(distilled, lora=good, progress=False)
    with pytest.raises(ValueError, match="two_stage=False"):
        load(written, lora=good, two_stage=False, progress=False)
    with pytest.raises(ValueError, match="two_stage=False"):
        load(written, latent_upsampler=written / "latent_upsampler", two_stage=False, progress=False)
    with pytest.raises(ValueError, match=r"lora: there is no .*nonsense.safetensors"):
        load(distilled, lora=tmp_path / "nonsense.safetensors", progress=False)


def test_a_lora_that_write_wrote_is_read_bit_for_bit(written, tiny_ltx23):
    file = written / "distilled_lora.safetensors"
    found = read_lora(file, tiny_ltx23.components["transformer"])
    assert found.keys() == load_file(file).keys()
    assert all(torch.equal(found[key], value) for key, value in tiny_ltx23.distilled_lora.items())
