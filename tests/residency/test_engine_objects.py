"""Saving, copying, moving, and LoRAs, on real diffusers and transformers models: before a run, after it, and left."""

import copy
import io
import pickle

import pytest
import torch
from diffusers import LTX2Pipeline
from safetensors.torch import load_file

from reslab import ltx2
from reslab.residency import Plan, ResidencyError, apply, layerwise

REQUEST = {"prompt": "a heron", "width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2, "seed": 7}
PLAN = Plan.of({"transformer": layerwise(resident=1), "text_encoder": "layerwise", "vae": "swap", "vocoder": "disk"})
MODELS = ("transformer", "text_encoder", "vae", "vocoder")


def make():
    off = ltx2.Guidance()  # one pass a step will do
    return ltx2.one_stage(ltx2.load("tiny", variant="LTX-2.3"), video_guidance=off, audio_guidance=off)


@pytest.fixture
def pipe():
    return make()


@pytest.fixture(scope="module")
def want():
    return make().run(**REQUEST)


def same(found, want):
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found, want, strict=True))


def run(pipe):
    video = pipe.run(**REQUEST)
    return video.frames, video.audio


def states(pipe):
    return {name: {k: v.clone() for k, v in pipe.components[name].state_dict().items()} for name in MODELS}


def equal(found, want):
    return found.keys() == want.keys() and all(torch.equal(found[key], want[key]) for key in want)


def saved(module, folder):
    """A model as it is after saving and loading again."""
    module.save_pretrained(folder)
    return type(module).from_pretrained(folder).state_dict()


def test_what_is_saved_before_a_run_after_it_and_afterwards_is_whole_and_equal(pipe, tmp_path):
    want = states(pipe)

    def check(when):
        for name in MODELS:
            assert equal(saved(pipe.components[name], tmp_path / when / name), want[name]), (when, name)
            stream = io.BytesIO()
            torch.save(pipe.components[name].state_dict(), stream)
            assert equal(torch.load(io.BytesIO(stream.getvalue())), want[name])

    with apply(pipe, PLAN):
        check("entered")
        pipe.run(**REQUEST)
        check("ran")
    check("left")


def test_a_diffusers_pipeline_of_managed_models_saves_whole_and_refuses_to_be_moved(pipe, tmp_path):
    names = ("scheduler", "vae", "audio_vae", "text_encoder", "tokenizer", "connectors", "transformer", "vocoder")
    want, stock = states(pipe), LTX2Pipeline(**{name: pipe.components[name] for name in names})
    with apply(pipe, PLAN):
        pipe.run(**REQUEST)
        stock.save_pretrained(tmp_path)
        with pytest.raises(ResidencyError, match=r"moving or converting .* leave its `with` block first"):
            stock.to(torch.float64)
    again = LTX2Pipeline.from_pretrained(tmp_path)
    assert all(equal(getattr(again, name).state_dict(), want[name]) for name in MODELS)
    stock.to("cpu", torch.float64)
    assert stock.transformer.dtype == stock.vae.dtype == torch.float64


def save(module):
    torch.save(module, io.BytesIO())


ATTEMPTS = (
    ("copying", copy.deepcopy),
    ("pickling", pickle.dumps),
    ("pickling", save),
    ("moving or converting", lambda module: module.to(torch.float64)),
    ("moving or converting", lambda module: module.half()),
)
PARTS = ("transformer", "transformer.transformer_blocks.1", "text_encoder.model", "vae.decoder")


def test_models_and_their_parts_refuse_what_would_go_wrong_and_run_on(pipe, want):
    modules = {part: pipe.components[part.partition(".")[0]].get_submodule(part.partition(".")[2]) for part in PARTS}

    def check():
        for part, module in modules.items():
            for what, attempt in ATTEMPTS:
                with pytest.raises(ResidencyError, match=f"{what} '{part}': a residency manages these weights"):
                    attempt(module)

    with apply(pipe, PLAN):
        check()
        pipe.run(**REQUEST)
        check()
        assert same(run(pipe), (want.frames, want.audio))
    del modules["text_encoder.model"]  # transformers leaves hooks in it that cannot be pickled
    for module in modules.values():
        for _, attempt in ATTEMPTS:
            attempt(module)


def test_a_copy_a_pickle_and_a_reloaded_file_of_a_model_that_was_managed_compute_the_same(pipe, want):
    with apply(pipe, PLAN):
        pipe.run(**REQUEST)
    transformer, stream = pipe.components["transformer"], io.BytesIO()
    torch.save(transformer, stream)
    loaded = torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    for twin in (copy.deepcopy(transformer), pickle.loads(pickle.dumps(transformer)), loaded):
        assert equal(twin.state_dict(), transformer.state_dict())
    pipe.components["transformer"] = copy.deepcopy(loaded)
    with apply(pipe, PLAN):  # and can be managed as well
        assert same(run(pipe), (want.frames, want.audio))


def test_a_model_that_was_managed_can_be_converted_and_managed_again(pipe):
    other = make()
    with apply(pipe, PLAN):
        pipe.run(**REQUEST)
    for each in (pipe, other):
        each.components["vae"].to(torch.float64).to(torch.float32).to("cpu")
        each.components["transformer"].transformer_blocks[0].requires_grad_(False)
    with apply(pipe, PLAN):
        assert same(run(pipe), run(other))


def lora():
    return {key: tensor.clone() for key, tensor in ltx2.load("tiny", variant="LTX-2.3").distilled_lora.items()}


@pytest.mark.parametrize("when", ["before a run", "afterwards"])
def test_a_lora_loaded_at_any_time_can_be_switched_fused_and_saved_afterwards(pipe, tmp_path, when):
    other, transformer = make(), pipe.components["transformer"]

    def load(each):
        each.components["transformer"].load_lora_adapter(lora(), prefix="transformer", adapter_name="late")

    with apply(pipe, PLAN):
        if when != "afterwards":
            load(pipe)
            with pytest.raises(ResidencyError, match="fuse_lora 'transformer'"):
                transformer.fuse_lora()
            transformer.save_lora_adapter(tmp_path / "managed", adapter_name="late")
    if when == "afterwards":
        load(pipe)
    load(other)
    for each, folder in ((transformer, "left"), (other.components["transformer"], "other")):
        each.save_lora_adapter(tmp_path / folder, adapter_name="late")
    files = [load_file(file) for file in tmp_path.glob("*/*.safetensors")]
    assert len(files) == (2 if when == "afterwards" else 3)
    assert all(equal(each, files[0]) for each in files)
    for each in (pipe, other):
        each.components["transformer"].fuse_lora()
    with apply(pipe, PLAN):  # fused, it is managed too
        assert same(run(pipe), run(other))


def test_adapters_are_set_and_scaled_while_managed(pipe):
    other = make()
    with apply(pipe, PLAN):
        for each in (pipe, other):
            transformer = each.components["transformer"]
            transformer.load_lora_adapter(lora(), prefix="transformer", adapter_name="late")
            transformer.set_adapters("late", 0.5)
        for each in (pipe, other):
            each.components["transformer"].delete_adapters("late")
        assert same(run(pipe), run(other))
