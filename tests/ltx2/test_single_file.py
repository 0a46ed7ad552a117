"""A single file as source is named for what it is, with the layout that can be loaded."""

import struct

import pytest
import torch
from safetensors.torch import save_file

from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._checkpoint._write import write

COMMON = (
    "transformer_blocks.0.attn1.to_q.weight",
    "transformer_blocks.0.audio_attn1.to_q.weight",
    "patchify_proj.weight",
)
LTX_23 = (*COMMON, "transformer_blocks.0.attn1.to_gate_logits.weight", "transformer_blocks.0.ff.net.2.bias")
LTX_2 = (*COMMON, "caption_projection.linear_1.weight", "transformer_blocks.0.ff.net.2.bias")
LTX_25 = (*COMMON, "transformer_blocks.0.attn1.to_gate_logits.weight", "transformer_blocks.0.ff.net.2.weight")
VAES = ("vae.encoder.conv_in.weight", "audio_vae.decoder.conv_in.weight", "vocoder.conv_pre.weight")
LTX_23_ID, DISTILLED_ID = "'diffusers/LTX-2.3-Diffusers'", "'diffusers/LTX-2.3-Distilled-Diffusers'"


def tensors(folder, name, keys, prefix=""):
    save_file({f"{prefix}{key}": torch.zeros(1) for key in keys}, folder / name)
    return folder / name


def whole(names, prefix="model.diffusion_model."):
    return (*(f"{prefix}{name}" for name in names), *VAES)


@pytest.mark.parametrize(
    ("name", "keys", "parts"),
    [
        ("ltx-2.3-22b-dev.safetensors", whole(LTX_23), ("whole Lightricks checkpoint", "LTX-2.3", LTX_23_ID)),
        ("renamed.safetensors", whole(LTX_23), ("whole Lightricks checkpoint", "LTX-2.3", LTX_23_ID)),
        ("ltx-2-19b-dev.safetensors", whole(LTX_2), ("whole Lightricks checkpoint", "LTX-2", "'Lightricks/LTX-2'")),
        ("ltx-2.3-22b-distilled.safetensors", whole(LTX_23), ("LTX-2.3 distilled", DISTILLED_ID)),
        ("ltx-2.5.safetensors", whole(LTX_25), ("LTX-2.5", "can be rehearsed")),
        ("a.safetensors", LTX_23, ("the transformer alone", LTX_23_ID)),
        ("a.safetensors", [f"diffusion_model.{key}" for key in LTX_2], ("the transformer alone", "'Lightricks/LTX-2'")),
        ("ltx-2.3-vae.safetensors", ("vae.encoder.a", "vae.decoder.b"), ("the video VAE alone", LTX_23_ID)),
        ("ltx-2.3-vae.safetensors", ("encoder.a", "decoder.b", "per_channel_statistics.c"), ("the video VAE alone",)),
        ("ltx-2.3.safetensors", ("audio_vae.encoder.a",), ("the audio VAE alone", LTX_23_ID)),
        ("x.safetensors", ("vocoder.conv_pre.weight",), ("the vocoder alone", LTX_23_ID, "'Lightricks/LTX-2'")),
        ("gemma.safetensors", ("model.layers.0.self_attn.q_proj.weight",), ("a text encoder alone",)),
        ("gemma.safetensors", ("language_model.model.layers.0.mlp.up_proj.weight",), ("a text encoder alone",)),
        ("c.safetensors", ("text_embedding_projection.aggregate_embed.weight",), ("the connectors alone",)),
        (
            "u.safetensors",
            ("upsampler.0.weight", "post_upsample_res_blocks.0.conv1.weight"),
            ("the latent upsampler alone",),
        ),
        (
            "l.safetensors",
            [f"diffusion_model.{key[:-7]}.lora_A.weight" for key in LTX_23[:4]],
            ("a LoRA", "lora=", LTX_23_ID),
        ),
        ("l.safetensors", ("lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight",), ("a LoRA", "lora=")),
        ("old.safetensors", ("transformer_blocks.0.attn1.to_q.weight",), ("LTX-Video", "no sound")),
        (
            "other.safetensors",
            ("double_blocks.0.img_attn.qkv.weight",),
            ("no part of LTX-2", "double_blocks.0.img_attn"),
        ),
    ],
)
def test_a_safetensors_file_is_named_for_what_it_holds(tmp_path, name, keys, parts):
    file = tensors(tmp_path, name, keys)
    with pytest.raises(ValueError, match=name) as error:
        load(file)
    assert str(error.value).startswith(repr(str(file)))
    assert [part for part in parts if part not in str(error.value)] == []
    assert "tiny" not in str(error.value)
    assert str(error.value).count(". ") == 0


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(architecture="ltxv", types=(12, 12, 14, 0), names=LTX_23, version=3, more=b"", values=1):
    """A GGUF header: magic, version, counts, metadata, and a name, a shape and a type for each tensor."""
    pairs = text("general.architecture") + struct.pack("<I", 8) + text(architecture) if architecture else b""
    infos = b"".join(
        text(name) + struct.pack("<IQQIQ", 2, 32, 32, kind, 0) for name, kind in zip(names, types, strict=False)
    )
    return b"GGUF" + struct.pack("<IQQ", version, len(types), values) + pairs + more + infos


ARRAY = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
NUMBERS = text("some.numbers") + struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("ltx-2.3-22b-dev-Q4_K_M.gguf", gguf(), ("GGUF", "'ltxv'", "Q4_K, Q6_K, F32", "not read yet", LTX_23_ID)),
        ("ltx-2.3-22b-distilled-Q8_0.gguf", gguf(types=(8,)), ("Q8_0", DISTILLED_ID)),
        (
            "a.gguf",
            gguf(more=ARRAY + NUMBERS, values=3, types=(30, 99) * 2, names=LTX_2),
            ("BF16, type 99", "'Lightricks/LTX-2'"),
        ),
        ("a.safetensors", gguf(), ("GGUF",)),
        (
            "gemma-3-12b-Q4_0.gguf",
            gguf("gemma3", names=("token_embd.weight",), types=(2,)),
            ("'gemma3'", "a text encoder alone"),
        ),
        ("flux.gguf", gguf("flux", names=("double_blocks.0.w",), types=(2,)), ("'flux'", "no part of LTX-2")),
    ],
)
def test_a_gguf_file_is_named_with_architecture_and_types(tmp_path, name, data, parts):
    (tmp_path / name).write_bytes(data + bytes(64))
    with pytest.raises(ValueError, match=name) as error:
        load(tmp_path / name)
    assert [part for part in parts if part not in str(error.value)] == []
    assert "tiny" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
        gguf()[:40],
        gguf(more=text("a") + struct.pack("<IIQ", 9, 5, 2**62), values=2),
        gguf(more=text("a") + struct.pack("<IIQ", 9, 9, 1), values=2),
        gguf(more=text("a") + struct.pack("<I", 77), values=2),
        gguf(more=struct.pack("<Q", 2**64 - 1), values=2),
        gguf(version=77),
    ],
    ids=["magic alone", "counts", "cut off", "array", "nested", "type", "name", "version"],
)
def test_a_gguf_header_that_is_none_is_named(tmp_path, data):
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(ValueError, match=r"a.gguf.*(truncated or damaged|version 77)"):
        load(tmp_path / "a.gguf")


def test_only_the_beginning_of_a_gguf_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("reslab.ltx2._checkpoint._single_file.HEADER_BYTES", 80)
    (tmp_path / "a.gguf").write_bytes(gguf() + bytes(100))
    with pytest.raises(ValueError, match=r"GGUF file .*'ltxv'"):
        load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.safetensors", b"", "is empty"),
        ("a.safetensors", b"\xff" * 100, "truncated or damaged"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("a.ckpt", b"PK\x03\x04" + bytes(50), "pickled"),
        ("a.pt", b"\x80\x02}q" + bytes(50), "pickled"),
        ("notes.txt", b"a heron over a weir", "neither safetensors nor GGUF"),
        ("config.json", b"{}", "neither safetensors nor GGUF.* folder"),
    ],
)
def test_another_or_a_damaged_file_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"(?s){name}.*{message}") as error:
        load(tmp_path / name)
    assert "tiny" not in str(error.value)


@pytest.mark.parametrize(
    "source",
    ["ltx.gguf", "./ltx-2.3.safetensors", "models/ltx-2.3.safetensors", "a/b/c/d.sft", "x.ckpt", "a/model_index.json"],
)
def test_a_file_that_is_not_there_is_said_and_not_sought_on_the_hub(source):
    with pytest.raises(ValueError, match=rf"there is no file '{source.removeprefix('./')}'") as error:
        load(source, hub=None)
    assert "tiny" not in str(error.value)


def test_a_file_inside_a_checkpoint_names_its_folder(tmp_path, tiny_ltx23):
    root = write(tiny_ltx23, tmp_path / "checkpoint")
    for file in (root / "model_index.json", root / "transformer" / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(ValueError, match=r"belongs to the checkpoint in .*checkpoint'; load that folder"):
            load(file)
