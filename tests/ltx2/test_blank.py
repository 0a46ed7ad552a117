"""Full size without weights: counts to the last parameter, what a forward computes, and random values that run."""

import polars as pl
import pytest
import torch

from reslab import ltx2, residency
from reslab.ltx2 import _rehearsal
from reslab.ltx2._checkpoint import _blank, _random_values
from reslab.ltx2._checkpoint._align import is_aligned
from reslab.ltx2._checkpoint._small_configs import small_config

GIB = 2**30
#: Published counts of parameters, and GiB at two bytes each.
PARAMETERS = {
    "LTX-2": {
        "text_encoder": 12_187_325_040,
        "connectors": 1_431_475_200,
        "transformer": 18_876_174_592,
        "vae": 1_222_479_601,
        "audio_vae": 53_248_146,
        "vocoder": 55_592_802,
        "latent_upsampler": 497_867_904,
    },
    "LTX-2.3": {
        "text_encoder": 12_187_325_040,
        "connectors": 3_172_227_584,
        "transformer": 18_988_838_144,
        "vae": 726_105_969,
        "audio_vae": 53_248_146,
        "vocoder": 128_537_448,
        "latent_upsampler": 497_867_904,
    },
}
#: Width, height → tokens of the video, TFLOP a forward of LTX-2.3 (121 frames, text of 1024 tokens).
FORWARDS = {(768, 512): (6144, 199), (1536, 1024): (24576, 1137), (1920, 1088): (32640, 1715)}


@pytest.fixture(scope="module")
def blanks():
    return {name: ltx2.blank(name) for name in (*PARAMETERS, "LTX-2.3 distilled")}


FRAMES = ("components", "blocks", "calls", "traces", "segments", "glue")


def counted(rehearsal):
    """How often each operation is in each body; transformers makes Gemma's two masks in the order of a set of text."""
    what = [name for name in rehearsal.operations.columns if name not in ("position", "repeats")]
    sums = rehearsal.operations.group_by(what).agg(pl.col("repeats").sum())
    return {tuple(map(str, row[:-1])): row[-1] for row in sums.iter_rows()}


def of(frame, **where):
    """Rows of a frame where columns of text have these values."""
    return frame.filter(*(pl.col(name).cast(pl.String) == value for name, value in where.items()))


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3", "LTX-2.3 distilled"])
def test_every_component_has_its_released_parameters(blanks, name):
    counts = PARAMETERS[name.removesuffix(" distilled")]
    found = {part: sum(w.numel() for w in module.parameters()) for part, module in blanks[name].modules.items()}
    assert found == counts
    weights = [weight for module in blanks[name].modules.values() for weight in module.parameters()]
    assert all(weight.is_meta and weight.dtype is torch.bfloat16 for weight in weights)


def test_everything_is_as_large_as_published(blanks):
    assert blanks["LTX-2"].weight_bytes / GIB == pytest.approx(63.93, abs=0.005)
    assert blanks["LTX-2.3"].weight_bytes / GIB == pytest.approx(66.60, abs=0.005)
    lora = sum(tensor.nbytes for tensor in blanks["LTX-2.3"].distilled_lora.values())
    assert 7 < lora / GIB < 8.6
    assert blanks["LTX-2.3 distilled"].distilled_lora is None


def test_tokenizer_and_scheduler_are_real(blanks):
    tokens = blanks["LTX-2.3"].components["tokenizer"]("weir", padding="max_length", max_length=1024)
    assert len(tokens.input_ids) == 1024
    assert blanks["LTX-2.3"].components["scheduler"].config.max_shift == 2.05


@pytest.mark.parametrize(("width", "height"), FORWARDS)
def test_a_forward_at_full_size_computes_what_is_known_of_it(width, height):
    rehearsal = ltx2.rehearsal("LTX-2.3", width=width, height=height, num_frames=121)
    (call, *_) = of(rehearsal.calls, stage="LTX2RefinementStage").iter_rows(named=True)
    trace = rehearsal.traces.row(call["merged_trace"], named=True)
    tokens, tflop = FORWARDS[width, height]
    assert f"hidden_states 1×{tokens}×128" in call["shapes"]
    assert "audio_hidden_states 1×126×128" in call["shapes"]
    assert round(trace["flops"] / 1e12) == tflop


def test_activations_grow_with_tokens_as_they_were_published_for_a_gpu():
    peaks, tokens = [], []
    for (width, height), (count, _tflop) in FORWARDS.items():
        rehearsal = ltx2.rehearsal("LTX-2.3 distilled", width=width, height=height, num_frames=121)
        trace = of(rehearsal.calls, stage="LTX2RefinementStage")["trace"][0]
        peaks.append(rehearsal.traces["activation_peak_bytes"][trace] / GIB)
        tokens.append((count + 126) / 1000)
    assert all(peak / thousand == pytest.approx(0.1364, rel=0.02) for peak, thousand in zip(peaks, tokens, strict=True))


def test_decoding_in_tiles_takes_a_quarter_of_the_activations():
    peaks = {}
    for tiling in ("on", "off"):
        rehearsal = ltx2.rehearsal("LTX-2.3 distilled", width=1536, height=1024, stages="one", tiling=tiling)
        call = of(rehearsal.calls, component="vae").row(-1, named=True)
        peaks[tiling] = rehearsal.traces["activation_peak_bytes"][call["trace"]] / GIB
        peaks[f"{tiling}, tiled"] = (
            rehearsal.traces["activation_peak_bytes"][call["tiled_trace"] or call["trace"]] / GIB
        )
    assert peaks["off, tiled"] == peaks["on"]  # rehearsed untiled, what tiles would need is known
    assert peaks["off"] == pytest.approx(12.9, rel=0.01)
    assert peaks["on"] < 0.28 * peaks["off"]


@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3", "LTX-2.3 distilled"])
def test_shipped_rehearsals_are_what_rehearsing_says(name):
    size = _rehearsal.SIZES[0]
    width, height, num_frames = size
    shipped = ltx2.rehearsal(name, width=width, height=height, num_frames=num_frames)
    made = _rehearsal.made(ltx2.variant(name), size)
    assert shipped.total_flops == made.total_flops
    if shipped.meta["versions"] == made.meta["versions"]:
        assert {key: value for key, value in shipped.meta.items() if key != "code"} == made.meta
        assert all(getattr(shipped, each).equals(getattr(made, each)) for each in FRAMES)
        assert counted(shipped) == counted(made)


def test_every_shipped_size_is_there_and_small():
    folder = _rehearsal.resources.files("reslab.ltx2").joinpath("_rehearsals")
    files = {file.name: len(file.read_bytes()) for file in folder.iterdir()}
    assert len(files) == 3 * len(_rehearsal.SIZES)
    assert max(files.values()) < 64 * 1024


def test_a_size_against_the_rules_and_an_unknown_model_are_clear_errors():
    with pytest.raises(ValueError, match=r"width=1000 is not a multiple of 64 .*; the nearest is 1024"):
        ltx2.rehearsal("LTX-2.3", width=1000)
    with pytest.raises(ValueError, match=r"no variant 'LTX-3'; did you mean 'LTX-2\.3'"):
        ltx2.blank("LTX-3")
    with pytest.raises(ValueError, match="there is no number of stages 'three'; known: one, two"):
        ltx2.rehearsal("LTX-2", stages="three")


def test_a_materialised_transformer_of_35_gib_takes_one_and_a_half(blanks):
    transformer = blanks["LTX-2.3"].components["transformer"]
    shared = {
        (path, name, weight.shape): weight.nbytes
        for path, owner in _random_values.with_shared_paths(transformer)
        for name, weight in owner._parameters.items()
        if weight is not None
    }
    assert sum(weight.nbytes for weight in transformer.parameters()) / GIB == pytest.approx(35.37, abs=0.005)
    assert sum(shared.values()) / GIB == pytest.approx(1.52, abs=0.005)


@pytest.fixture(scope="module")
def small_blank():
    """A blank with the tiny widths: what is tested of materialising does not depend on size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blank, "config", small_config)
        patch.setattr(_blank, "LORA_RANK", 4)
        return ltx2.blank("LTX-2.3", dtype=torch.float32)


def test_materialised_blocks_share_one_storage_and_lie_aligned(small_blank):
    checkpoint = small_blank.materialize(seed=0)
    blocks = checkpoint.components["transformer"].transformer_blocks
    addresses = [{weight.data_ptr() for weight in block.parameters()} for block in blocks]
    assert len(blocks) == 4
    assert all(own == addresses[0] for own in addresses)
    assert all(is_aligned(module) for module in checkpoint.modules.values())
    assert next(small_blank.components["transformer"].parameters()).is_meta  # the blank stays one
    low, high = (f"transformer.transformer_blocks.{i}.attn1.to_q.lora_A.weight" for i in (0, 3))
    assert checkpoint.distilled_lora[low].data_ptr() == checkpoint.distilled_lora[high].data_ptr()


def test_a_materialised_checkpoint_runs_and_says_that_it_is_untrained(small_blank):
    pipe = ltx2.two_stage(small_blank.materialize(seed=0))
    pipe.progress = False
    video = pipe.run(prompt="a heron", width=128, height=64, num_frames=9, num_inference_steps=2, seed=7)
    assert video.frames.shape == (9, 64, 128, 3)
    assert video.frames.std() > 0
    assert "untrained" in repr(video)


def test_a_materialised_checkpoint_moves_all_its_bytes_and_the_host_holds_one_block_of_each_kind(small_blank):
    pipe = ltx2.two_stage(small_blank.materialize(seed=0))
    pipe.progress = False
    with residency.apply(pipe, residency.Plan.of({"transformer": "layerwise"})) as managed:
        pipe.run(prompt="a heron", width=128, height=64, num_frames=9, num_inference_steps=2, seed=7)
        sizes = managed.workload.components
        held = dict(managed.table().select("component", "host_bytes").iter_rows())
    for name, size in sizes.items():
        assert size.weight_bytes == sum(weight.nbytes for weight in pipe.components[name].parameters())
    transformer = sizes["transformer"]  # 4 blocks; the gaps that align weights come on top
    assert held["transformer"] == pytest.approx(transformer.outside_bytes + transformer.block_bytes[0], rel=0.02)
    blocks = pipe.components["transformer"].transformer_blocks
    assert len({block.scale_shift_table.data_ptr() for block in blocks}) == 1


def test_equal_seeds_give_equal_weights(small_blank):
    first, again, other = (small_blank.materialize(seed=seed).components["vae"].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["decoder.conv_in.conv.weight"], other["decoder.conv_in.conv.weight"])
