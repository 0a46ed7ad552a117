"""One loader for tiny and released checkpoints; what is missing, damaged or contradictory is named first."""

import json
import shutil

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from reslab.ltx2._checkpoint._align import is_aligned
from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._checkpoint._lora import add_lora, set_strength
from reslab.ltx2._checkpoint._write import write
from reslab.ltx2._pipeline._compose import two_stage

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original():
    return load("tiny", variant="LTX-2.3")


@pytest.fixture(scope="module")
def written(tmp_path_factory, original):
    """The tiny LTX-2.3 as `write` writes it; not to be changed."""
    return write(original, tmp_path_factory.mktemp("checkpoints") / "written")


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(written, tmp_path / "copy")


def edit(file, change):
    """Rewrite a safetensors file with its tensors changed."""
    save_file(change(load_file(file)), file)


def assert_equal_weights(first, second):
    assert first.components.keys() == second.components.keys()
    for name, module in first.modules.items():
        theirs = second.modules[name]
        for mine, other in ((module.state_dict(), theirs.state_dict()), *buffers(module, theirs)):
            assert mine.keys() == other.keys()
            for key in mine:
                assert mine[key].dtype == other[key].dtype
                assert torch.equal(mine[key], other[key]), f"{name}.{key}"


def buffers(module, theirs):
    yield dict(module.named_buffers()), dict(theirs.named_buffers())


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3", "LTX-2.3 distilled"])
def test_what_is_written_is_loaded_bit_for_bit(name, tmp_path):
    checkpoint = load("tiny", variant=name)
    loaded = load(write(checkpoint, tmp_path / "folder"), progress=False)
    assert_equal_weights(checkpoint, loaded)
    assert (loaded.variant, loaded.untrained, loaded.stg_blocks) == (checkpoint.variant, True, checkpoint.stg_blocks)
    mine, theirs = checkpoint.distilled_lora, loaded.distilled_lora
    assert (mine is None) == (theirs is None)
    assert mine is None or all(torch.equal(mine[key], theirs[key]) for key in (*mine, *theirs))
    prompt = "Reiher über 日本"
    assert loaded.components["tokenizer"](prompt).input_ids == checkpoint.components["tokenizer"](prompt).input_ids
    shift = "use_dynamic_shifting", "shift_terminal", "base_shift", "max_shift"
    configs = (each.components["scheduler"].config for each in (checkpoint, loaded))
    assert len({tuple(config[key] for key in shift) for config in configs}) == 1


def test_everything_loaded_is_aligned_and_in_evaluation_mode(written):
    loaded = load(written, progress=False)
    for module in loaded.modules.values():
        assert is_aligned(module)
        assert not module.training
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.distilled_lora.values())


def test_what_is_loaded_makes_the_same_video_bit_for_bit(written):
    request = {"prompt": "a heron over a weir", "width": 128, "height": 64, "num_frames": 9, "seed": 7}
    loaded, built = load(written, progress=False), load("tiny", variant="LTX-2.3")
    first, second = (two_stage(each).run(**request, num_inference_steps=2) for each in (loaded, built))
    assert (first.frames == second.frames).all()
    assert (first.audio == second.audio).all()


def test_files_are_not_aligned_by_themselves(written):
    """Else the test above could not fail: what safetensors maps into memory starts anywhere."""
    mapped = [value for file in written.rglob("*.safetensors") for value in load_file(file).values()]
    assert any(value.data_ptr() % 64 for value in mapped)


def test_tied_weights_stay_tied(written):
    text_encoder = load(written, progress=False).components["text_encoder"]
    assert text_encoder.lm_head.weight is text_encoder.get_input_embeddings().weight


def test_dtype_is_that_asked_for(written):
    loaded = load(written, dtype=torch.bfloat16, progress=False)
    assert {p.dtype for module in loaded.modules.values() for p in module.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in loaded.distilled_lora.values()} == {torch.bfloat16}
    rotary = loaded.components["text_encoder"].model.language_model.rotary_emb
    assert {buffer.dtype for buffer in rotary.buffers()} == {torch.float32}


def test_released_weights_are_bfloat16_by_default(folder):
    (folder / "reslab.json").unlink()
    loaded = load(folder, progress=False)
    assert not loaded.untrained
    assert next(loaded.components["transformer"].parameters()).dtype == torch.bfloat16


def test_shards_are_read_by_their_index(folder, original):
    state = load_file(folder / "transformer" / WEIGHTS)
    (folder / "transformer" / WEIGHTS).unlink()
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(state, folder / "transformer", filename_pattern=pattern, max_shard_size="200KB")
    assert len(list((folder / "transformer").glob("*-of-*.safetensors"))) > 2
    assert_equal_weights(original, load(folder, progress=False))
    next((folder / "transformer").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"transformer: 1 of \d shards are missing: diffusion_pytorch_model-00002-of"):
        load(folder, progress=False)


def test_a_missing_component_is_named(folder):
    shutil.rmtree(folder / "vocoder")
    shutil.rmtree(folder / "connectors")
    with pytest.raises(ValueError, match="has no folder for connectors, vocoder"):
        load(folder, progress=False)


def test_without_the_upsampler_and_the_lora_it_loads_and_both_may_lie_elsewhere(folder, tmp_path):
    (folder / "latent_upsampler").rename(tmp_path / "elsewhere")
    (folder / "distilled_lora.safetensors").rename(tmp_path / "lora.safetensors")
    alone = load(folder, progress=False)
    assert "latent_upsampler" not in alone.components
    assert alone.distilled_lora is None
    whole = load(folder, latent_upsampler=tmp_path / "elsewhere", lora=tmp_path / "lora.safetensors", progress=False)
    assert "latent_upsampler" in whole.components
    assert whole.distilled_lora
    with pytest.raises(ValueError, match="latent_upsampler: there is no"):
        load(folder, latent_upsampler=tmp_path / "nowhere", progress=False)


@pytest.mark.parametrize("source", ["tiny", "written"])
def test_for_one_stage_the_upsampler_and_the_lora_are_left_out(written, source):
    checkpoint = load(written if source == "written" else source, two_stage=False, progress=False)
    assert "latent_upsampler" not in checkpoint.components
    assert checkpoint.distilled_lora is None


def test_weights_are_those_named_as_the_library_of_the_component_names_them(folder, original):
    """A repository may hold a component under several names; transformers reads model.safetensors."""
    shutil.copy(folder / "vae" / WEIGHTS, folder / "text_encoder" / WEIGHTS)
    assert_equal_weights(original, load(folder, progress=False))
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"text_encoder has no weights: .* holds no model.safetensors"):
        load(folder, progress=False)


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_a_truncated_file_is_named_with_its_size(folder, component):
    file = next((folder / component).glob("*.safetensors"))
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    with pytest.raises(
        ValueError, match=rf"{component}/{file.name} is truncated or damaged \({len(data) - 100:,} bytes"
    ):
        load(folder, progress=False)


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_pickled_weights_are_refused(folder, component):
    file = next((folder / component).glob("*.safetensors"))
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ValueError, match=rf"{component} has \w+.bin but no safetensors: pickled weights can run code"):
        load(folder, progress=False)


def test_missing_unexpected_and_misshapen_weights_are_named_in_one_error(folder):
    def damage(state):
        del state["proj_in.bias"]
        return state | {"extra.weight": torch.zeros(1), "proj_in.weight": torch.zeros(32, 9)}

    edit(folder / "transformer" / WEIGHTS, damage)
    with pytest.raises(ValueError, match="transformer does not fit its configuration") as error:
        load(folder, progress=False)
    assert "1 unexpected keys: extra.weight" in str(error.value)
    assert "1 missing keys: proj_in.bias" in str(error.value)
    assert f"proj_in.weight has shape (32, 9) in {WEIGHTS}, not (32, 8)" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {key: value for key, value in state.items() if "layers.2.mlp.up" not in key},
            "missing keys: .*layers.2",
        ),
        (
            lambda state: {key: value[:3] if "layers.2.mlp.up" in key else value for key, value in state.items()},
            "text_encoder",
        ),
    ],
    ids=["missing", "misshapen"],
)
def test_a_text_encoder_that_does_not_fit_is_named(folder, change, message):
    file = next((folder / "text_encoder").glob("*.safetensors"))
    state = {key: value.contiguous() for key, value in change(load_file(file)).items()}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        load(folder, progress=False)


def test_a_checkpoint_with_peft_leftovers_is_refused(folder):
    leftover = "transformer_blocks.0.attn1.to_q"
    rename = {f"{leftover}.weight": f"{leftover}.base_layer.weight", f"{leftover}.bias": f"{leftover}.base_layer.bias"}
    edit(folder / "transformer" / WEIGHTS, lambda state: {rename.get(key, key): value for key, value in state.items()})
    with pytest.raises(
        ValueError, match=r"saved from a model with PEFT adapters: save it without them\): .*base_layer"
    ):
        load(folder, progress=False)


def test_a_checkpoint_with_a_lora_switched_on_is_written_without_it(tmp_path, original):
    switched = load("tiny", variant="LTX-2.3")
    add_lora(switched.components["transformer"], switched.distilled_lora)
    set_strength(switched.components["transformer"], 1.0)
    assert_equal_weights(original, load(write(switched, tmp_path / "folder"), progress=False))


def test_a_lora_of_another_variant_is_refused(folder, tiny_ltx2):
    save_file(dict(tiny_ltx2.distilled_lora), folder / "distilled_lora.safetensors")
    with pytest.raises(ValueError, match="This LoRA does not fit the transformer"):
        load(folder, progress=False)


def test_a_damaged_configuration_is_named(folder):
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"vae/config.json is no JSON .*; download it again"):
        load(folder, progress=False)


def test_the_variant_is_read_from_the_configurations_and_a_contradiction_names_both_sides(written):
    assert load(written, variant="ltx-2.3", progress=False).variant.name == "LTX-2.3"
    with pytest.raises(ValueError, match=r"configurations are those of LTX-2.3, but you asked for LTX-2;"):
        load(written, variant="LTX-2", progress=False)
    with pytest.raises(ValueError, match=r"there is no variant 'LTX-3'; did you mean 'LTX-2\.3'"):
        load(written, variant="LTX-3", progress=False)


def test_a_wrong_mark_is_a_contradiction(folder):
    (folder / "reslab.json").write_text(json.dumps({"variant": "LTX-2", "untrained": True}))
    with pytest.raises(ValueError, match=r"those of LTX-2.3, but its reslab.json says LTX-2;"):
        load(folder, progress=False)


def test_a_model_of_no_known_variant_names_the_flags_that_differ(folder):
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ff_bias": False}))
    with pytest.raises(ValueError, match=r"of no variant that is known here: LTX-2.3 has not ff_bias=False"):
        load(folder, progress=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("LTX-2.3", "; LTX-2.3 is published as 'diffusers/LTX-2.3-Diffusers'"),
        ("./nowhere", "is no folder here and no Hub id"),
    ],
)
def test_an_unknown_source_says_what_there_is(source, message):
    with pytest.raises(ValueError, match=message):
        load(source)


def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(tmp_path):
    with pytest.raises(ValueError, match=r"has no model_index.json: it is not a checkpoint"):
        load(tmp_path)


def test_revision_belongs_to_the_hub(written):
    with pytest.raises(ValueError, match="revision='main' is for the Hub"):
        load(written, revision="main")
    with pytest.raises(ValueError, match="builds everything in memory"):
        load("tiny", revision="main")


def test_writing_leaves_a_full_folder_alone_and_no_half_one_behind(original, folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not empty; choose a new folder"):
        write(original, folder)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("reslab.ltx2._checkpoint._write.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write(original, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_diffusers_reads_what_is_written(written, original):
    from diffusers import LTX2Pipeline

    pipe = LTX2Pipeline.from_pretrained(written, dtype=torch.float32, local_files_only=True)
    theirs, mine = pipe.transformer.state_dict(), original.components["transformer"].state_dict()
    assert all(torch.equal(theirs[key], mine[key]) for key in mine)


def test_a_checkpoint_displays_as_one_line_and_as_a_table(original):
    assert repr(original) == "Checkpoint('LTX-2.3' from 'tiny', 5.57 MiB, untrained weights: noise by design)"
    page = original._repr_html_()
    assert page.count("<tr>") == 10
    add_lora(original.components["transformer"], original.distilled_lora)
    assert original._repr_html_() == page
    cells = (("left", "transformer"), ("left", "LTX2VideoTransformer3DModel"), ("right", "179,408"))
    assert "".join(f'<td style="text-align:{side}">{cell}</td>' for side, cell in cells) in page
