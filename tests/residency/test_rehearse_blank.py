"""Other diffusers pipelines, classic and modular: from shipped configurations, from a folder, from blocks."""

import polars as pl
import pytest
import torch
from diffusers.modular_pipelines.ltx2 import LTX2AutoBlocks

from reslab import ltx2
from reslab.residency import RehearsalError, blank, blanks, rehearse
from reslab.stages import Pipeline

torch.set_num_threads(1)

#: Request, parameters of all components, and the calls of each method that the stock pipeline makes.
RUNS = {
    "FLUX.1-dev": (
        {"width": 1024, "height": 1024, "num_inference_steps": 3},
        83_819_683 + 123_060_480 + 4_762_310_656 + 11_901_408_320,
        {"text_encoder.forward": 1, "text_encoder_2.forward": 1, "transformer.forward": 3, "vae.decode": 1},
    ),
    "Wan2.2-T2V-A14B": (
        {"width": 832, "height": 480, "num_frames": 81, "num_inference_steps": 4, "negative_prompt": "blurry"},
        126_892_531 + 5_680_910_336 + 2 * 14_288_491_584,
        # two experts, both guided: one step lies above the boundary of 0.875, three below
        {"text_encoder.forward": 2, "transformer.forward": 4, "transformer_2.forward": 4, "vae.decode": 1},
    ),
    "Qwen-Image": (
        {"width": 1024, "height": 1024, "num_inference_steps": 2, "true_cfg_scale": 4.0, "negative_prompt": " "},
        126_892_531 + 8_292_166_656 + 20_430_401_088,
        {"text_encoder.forward": 2, "transformer.forward": 4, "vae.decode": 1},
    ),
    "SDXL": (
        {"width": 1024, "height": 1024, "num_inference_steps": 3, "negative_prompt": "blurry"},
        83_653_863 + 123_060_480 + 694_659_840 + 2_567_463_684,
        {"text_encoder.forward": 2, "text_encoder_2.forward": 2, "unet.forward": 3, "vae.decode": 1},
    ),
}


def counted(rehearsal):
    names = rehearsal.calls.select(pl.concat_str(pl.col("component", "method").cast(pl.String), separator="."))
    return dict(names.to_series().value_counts().iter_rows())


# of diffusers' own SDXL pipeline and its scheduler
@pytest.mark.filterwarnings("ignore:.*upcast_vae.*:FutureWarning", "ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("name", RUNS)
def test_a_shipped_model_has_its_released_parameters_and_the_calls_of_its_stock_pipeline(name):
    request, parameters, calls = RUNS[name]
    rehearsal = rehearse(blank(name), prompt="a heron over a weir", **request)
    assert rehearsal.components["parameters"].sum() == parameters
    assert counted(rehearsal) == calls
    assert rehearsal.meta["pipeline"] == name


def test_a_forward_of_flux_computes_what_its_shapes_say():
    rehearsal = rehearse(blank("FLUX.1-dev"), prompt="a heron", width=1024, height=1024, num_inference_steps=1)
    trace = rehearsal.traces.row(by_predicate=pl.col("component").cast(pl.String) == "transformer", named=True)
    tokens, width = 4096 + 512, 3072
    attention = 57 * 2 * 2 * tokens**2 * width
    blocks = 19 * 2 * tokens * 12 * width**2 + 38 * 2 * tokens * 12 * width**2  # q, k, v, out and two of four widths
    assert trace["attention_flops"] == attention
    assert trace["matmul_flops"] == pytest.approx(blocks, rel=0.001)  # what is left: embeddings and modulation


def test_what_diffusers_keeps_in_float32_stays_in_float32():
    transformer = blank("Wan2.2-T2V-A14B").components["transformer"]
    dtypes = {path: weight.dtype for path, weight in transformer.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] is torch.bfloat16
    assert dtypes["blocks.0.scale_shift_table"] is torch.float32
    assert next(blank("SDXL", dtype=torch.float32).components["unet"].parameters()).dtype is torch.float32


def test_an_unknown_model_is_an_error_that_names_the_nearest(tmp_path):
    assert blanks() == sorted(RUNS)
    with pytest.raises(RehearsalError, match=r"no configuration of 'flux' and no such folder. The nearest is 'FLUX\.1"):
        blank("flux")
    with pytest.raises(RehearsalError, match=r"has no model_index\.json"):
        blank(tmp_path)


def test_a_folder_is_rehearsed_from_its_configurations_alone(tmp_path):
    folder = ltx2.write(ltx2.load("tiny", variant="LTX-2"), tmp_path / "model")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    request = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": 256}
    rehearsal = rehearse(blank(folder), prompt="a heron", **request)
    assert counted(rehearsal)["transformer.forward"] >= 2
    assert rehearsal.components.filter(pl.col("component").cast(pl.String) == "transformer")["blocks"].item() == 0
    assert rehearsal.weight_bytes > 0


def test_a_modular_pipeline_composed_from_blocks_is_rehearsed():
    parts = dict(ltx2.load("tiny", variant="LTX-2").components)
    request = {"prompt": "a heron", "width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    pipe = Pipeline.from_blocks(LTX2AutoBlocks(), components=parts, **request)
    rehearsal = rehearse(pipe, **request, max_sequence_length=256, output_type="pt")
    assert counted(rehearsal)["transformer.forward"] >= 2
    assert set(rehearsal.calls["guidance_pass"].cast(pl.String).drop_nulls()) >= {"pred_cond"}
