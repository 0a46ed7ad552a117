"""What a folder lacks, repeats or garbles is one ValueError that names the file, before weights are read."""

import inspect
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GemmaTokenizer

from reslab.ltx2._checkpoint._checkpoint_folder import choose_file
from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._checkpoint._write import write

WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = ("text_encoder", "connectors", "transformer", "vae", "audio_vae", "vocoder", "latent_upsampler")


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_ltx23):
    return write(tiny_ltx23, tmp_path_factory.mktemp("damaged") / "written")


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


@pytest.fixture
def unread(monkeypatch):
    """Nothing may be read: what is refused is refused before."""
    monkeypatch.setattr("reslab.ltx2._checkpoint._load.read_component", None)


def weight_name(part, variant=""):
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    return f"{stem}{variant and '.' + variant}.safetensors"


def index(folder, part, names, *, variant="", weights=None):
    """Write a shard index that names these files."""
    name = f"{weight_name(part)}.index{variant and '.' + variant}.json"
    content = {"metadata": {}, "weight_map": {str(place): each for place, each in enumerate(names)}}
    (folder / part / name).write_text(json.dumps(weights or content))


# Files of one precision only


@pytest.mark.parametrize("variant", ["bf16", "fp16"])
def test_a_folder_saved_with_a_variant_is_loaded_by_it(folder, written, variant):
    for part in PARTS:
        (folder / part / weight_name(part)).rename(folder / part / weight_name(part, variant))
    loaded, plain = load(folder, progress=False), load(written, progress=False)
    for name, module in plain.modules.items():
        theirs = loaded.modules[name].state_dict()
        assert all(torch.equal(theirs[key], value) for key, value in module.state_dict().items())


def test_shards_of_a_variant_are_loaded_by_their_index(folder):
    for part in ("transformer", "text_encoder"):
        state = load_file(folder / part / weight_name(part))
        (folder / part / weight_name(part)).unlink()
        stem = weight_name(part).removesuffix(".safetensors")
        keys = sorted(state)
        names = [f"{stem}.bf16-0000{number}-of-00002.safetensors" for number in (1, 2)]
        where = {key: names[place % 2] for place, key in enumerate(keys)}
        for name in names:
            own = {key: state[key] for key in keys if where[key] == name}
            save_file(own, folder / part / name, metadata={"format": "pt"})
        index(folder, part, [], variant="bf16", weights={"metadata": {"total_size": 1}, "weight_map": where})
    loaded = load(folder, progress=False)
    assert torch.equal(loaded.components["transformer"].state_dict()[key := "proj_in.bias"], load_file_at(folder, key))


def load_file_at(folder, key):
    return next(
        state[key] for file in (folder / "transformer").glob("*.safetensors") if key in (state := load_file(file))
    )


def test_weights_without_a_variant_come_first_and_several_variants_are_a_choice(folder, unread):
    file = folder / "vae" / WEIGHTS
    shutil.copy(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.rename(file.with_name("diffusion_pytorch_model.bf16.safetensors"))
    with pytest.raises(ValueError, match=r"vae has weights as bf16 and as fp16") as error:
        load(folder, progress=False)
    assert "diffusion_pytorch_model.bf16.safetensors" in str(error.value)


@pytest.mark.parametrize(("part", "is_index"), [("text_encoder", False), ("vae", True)])
def test_a_file_beside_an_index_is_read_as_the_components_library_reads_it(part, is_index):
    """The file comes first for transformers, the index for diffusers."""
    names = [weight_name(part), f"{weight_name(part)}.index.json"]
    assert choose_file(part, names).is_index is is_index
    assert choose_file(part, reversed(names)).is_index is is_index


# The tokenizer


def test_a_tokenizer_without_its_vocabulary_is_refused(folder, unread):
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer has neither tokenizer.json nor tokenizer.model"):
        load(folder, progress=False)


@pytest.mark.parametrize("tokens", [5, 5 + 300])
def test_a_vocabulary_that_does_not_fit_the_text_encoder_is_refused(folder, tokens):
    """The text encoder has 264 rows; 5 tokens are the special ones alone."""
    names = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"a{place}" for place in range(300)))
    vocabulary = {name: place for place, name in enumerate(names[:tokens])}
    shutil.rmtree(folder / "tokenizer")
    GemmaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder / "tokenizer")
    with pytest.raises(ValueError, match=rf"tokenizer has {tokens} tokens, .* 264 rows"):
        load(folder, progress=False)


# Weights that are no numbers of a model


def as_integers(file, keep=""):
    state = {key: value if keep and keep in key else value.to(torch.int64) for key, value in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_whole_numbers_are_refused(folder, part):
    as_integers(folder / part / weight_name(part))
    with pytest.raises(ValueError, match=rf"{part}.* I64"):
        load(folder, progress=False)


def test_unexpected_keys_of_the_text_encoder_are_refused(folder):
    file = folder / "text_encoder" / "model.safetensors"
    save_file(load_file(file) | {"extra.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text_encoder: unexpected keys: extra.weight"):
        load(folder, progress=False)


# Shard indexes

NAMES = [
    "../a.safetensors",
    "a/b.safetensors",
    "a\\b.safetensors",
    "/a.safetensors",
    "C:a.safetensors",
    "..",
    "",
    "a.bin",
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", [*NAMES, "a\0.safetensors", 5, None], ids=repr)
def test_an_index_names_plain_files_of_its_folder_only(folder, unread, monkeypatch, part, name):
    monkeypatch.setattr("reslab.ltx2._checkpoint._file_headers.safe_open", None)
    index(folder, part, [weight_name(part), name])
    with pytest.raises(ValueError, match=rf"{part}/{weight_name(part)}.index.json names "):
        load(folder, progress=False)


def test_a_link_that_leads_out_of_the_folder_is_refused(folder, tmp_path, unread):
    shutil.move(folder / "vae" / WEIGHTS, tmp_path / "elsewhere.safetensors")
    (folder / "vae" / "shard.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    index(folder, "vae", ["shard.safetensors"])
    with pytest.raises(ValueError, match=r"vae/.*index.json names 'shard.safetensors', a link that leads out"):
        load(folder, progress=False)


def test_the_links_of_the_hubs_cache_are_its_own(folder, tmp_path):
    """Snapshots link to blobs beside them."""
    repo = tmp_path / "models--a--b"
    (repo / "blobs").mkdir(parents=True)
    shutil.move(folder / "vae" / WEIGHTS, repo / "blobs" / "0123")
    keys = load_file(repo / "blobs" / "0123").keys()
    index(folder, "vae", [], weights={"metadata": {}, "weight_map": dict.fromkeys(keys, "shard.safetensors")})
    (repo / "snapshots").mkdir()
    root = shutil.move(folder, repo / "snapshots" / "commit")
    (root / "vae" / "shard.safetensors").symlink_to(os.path.join("..", "..", "..", "blobs", "0123"))
    assert load(root, progress=False).variant.name == "LTX-2.3"


@pytest.mark.parametrize("weights", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": None}], ids=repr)
def test_an_index_without_a_map_is_named(folder, unread, weights):
    index(folder, "vae", [], weights=weights or {"metadata": {}})
    with pytest.raises(ValueError, match=r"vae/diffusion_pytorch_model.safetensors.index.json has no weight_map"):
        load(folder, progress=False)


# JSON

FILES = (
    "model_index.json",
    "reslab.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "latent_upsampler/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "connectors/diffusion_pytorch_model.safetensors.index.json",
)
GARBLED = [b"null", b"[]", b'"text"', b"5", b"{", b"", b"\xff\xfe\x00", b"[" * 100_000]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", GARBLED, ids=lambda content: repr(content[:8]))
def test_json_that_is_no_object_is_named(folder, unread, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load(folder, progress=False)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text_encoder/config.json", {"architectures": []}),
        ("text_encoder/config.json", {"architectures": None}),
        ("text_encoder/config.json", {"architectures": [5]}),
        ("text_encoder/config.json", {"architectures": ["Nothing"]}),
        ("text_encoder/config.json", {"architectures": ["logging"]}),
        ("text_encoder/config.json", {"text_config": 5}),
        ("vae/config.json", {"_class_name": None}),
        ("vae/config.json", {"_class_name": 5}),
        ("vae/config.json", {"_class_name": "utils"}),
        ("vae/config.json", {"latent_channels": "many"}),
        ("vae/config.json", {"block_out_channels": None}),
        ("transformer/config.json", {"num_layers": "four"}),
        ("scheduler/scheduler_config.json", {"_class_name": []}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}),
        ("reslab.json", {"variant": 5}),
        ("reslab.json", {"untrained": "no"}),
        ("tokenizer/tokenizer.json", {"model": 5}),
        ("tokenizer/tokenizer_config.json", {"bos_token": 5}),
    ],
)
def test_a_value_that_means_nothing_is_named_with_its_file(folder, name, change):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=name.replace("tokenizer/tokenizer_config.json", "tokenizer")):
        load(folder, progress=False)


# Arguments; past the type checker that tests turn on, as a user calls them


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dtype", "bfloat16", r"dtype='bfloat16'.*torch.bfloat16"),
        ("dtype", torch.float8_e4m3fn, r"dtype=torch.float8_e4m3fn.*torch.bfloat16"),
        ("dtype", torch.int64, r"dtype=torch.int64"),
        ("dtype", 16, r"dtype=16"),
        ("device", "banana", r"device='banana'.*'cpu'"),
        ("device", "", r"device=''"),
        ("device", -1, r"device=-1"),
        ("device", "cuda:7", r"device='cuda:7'"),
        ("device", "meta", r"device='meta'"),
        ("variant", 5, r"variant=5.*'LTX-2.3'"),
        ("revision", 5, r"revision=5"),
        ("lora", 5, r"lora=5"),
        ("latent_upsampler", 5, r"latent_upsampler=5"),
    ],
)
@pytest.mark.parametrize("source", ["tiny", "folder", "a/b"])
def test_an_argument_that_is_none_is_named(folder, unread, name, value, message, source):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(load)(folder if source == "folder" else source, **{name: value}, progress=False)


@pytest.mark.parametrize("source", [5, None, b"tiny", ["tiny"]], ids=repr)
def test_a_source_that_is_none_is_named(source):
    with pytest.raises(ValueError, match="load takes a folder, a Hub id or"):
        inspect.unwrap(load)(source)


@pytest.mark.parametrize("given", ["lora", "latent_upsampler"])
def test_what_is_given_must_be_there_and_of_its_kind(folder, unread, given, tmp_path):
    with pytest.raises(ValueError, match=rf"{given}: there is no"):
        load(folder, **{given: tmp_path / "nowhere"}, progress=False)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ValueError, match=r"file.txt"):
        load(folder, **{given: tmp_path / "file.txt"}, progress=False)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_prompt_with_half_a_character_is_refused(tiny_ltx23, name):
    from reslab import ltx2

    request = {"prompt": "x", "width": 64, "height": 64, "num_frames": 9} | {name: "a \ud83d heron"}
    with pytest.raises(ValueError, match=rf"{name} .*position 2"):
        ltx2.two_stage(tiny_ltx23).check(**request)
