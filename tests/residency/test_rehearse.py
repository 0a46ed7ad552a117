"""A rehearsal says what a real run does: the same calls, the same arithmetic, the same peaks; tiny models, for real."""

import gc
import inspect
import json
import subprocess
import sys
import traceback
from contextlib import ExitStack
from functools import cache

import diffusers
import numpy as np
import polars as pl
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from reslab import ltx2
from reslab.residency import RehearsalError, UnknownValueError, rehearse
from reslab.residency._rehearse._calls import shapes_of
from reslab.stages import Pipeline, PipelineError, Stage, stage
from reslab.stages.support import shadowed

torch.set_num_threads(1)

IMAGE = np.zeros((64, 128, 3), np.uint8)
RUNS = {
    "two stages, guided in four passes": ("LTX-2.3", ltx2.two_stage, {}),
    "two stages, classifier-free guidance": ("LTX-2", ltx2.two_stage, {}),
    "two stages, distilled": ("LTX-2.3 distilled", ltx2.two_stage, {}),
    "one stage, distilled": ("LTX-2.3 distilled", ltx2.one_stage, {}),
    "two stages, from an image": ("LTX-2.3", ltx2.two_stage, {"image": IMAGE, "image_crf": 0}),
    "one stage, guided, from an image": ("LTX-2", ltx2.one_stage, {"image": IMAGE, "image_crf": 0}),
}


def request_for(variant, **more):
    steps = {} if "distilled" in variant else {"num_inference_steps": 2}
    return {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9, "seed": 7} | steps | more


def composed(variant, compose, **settings):
    pipe = compose(ltx2.load("tiny", variant=variant), **settings)
    pipe.progress = False
    return pipe


def watched_run(pipe, request, measure):
    """Run for real; list component, method and shapes of every call, with what `measure` says of it."""
    seen = []

    def watch(name, module, method):
        original = getattr(module, method)
        parameters = inspect.signature(original)

        def call(*args, **kwargs):
            result, measured = measure(lambda: original(*args, **kwargs))
            seen.append((name, method, shapes_of(parameters, args, kwargs), measured))
            return result

        call.__signature__ = parameters
        return shadowed(module, method, call)

    with ExitStack() as stack:
        for name, module in pipe.components.items():
            for method in ("forward", "encode", "decode"):
                if isinstance(module, torch.nn.Module) and callable(getattr(module, method, None)):
                    stack.enter_context(watch(name, module, method))
        pipe.run(**request)
    return seen


def allocated_peak(call):
    """Most bytes above the start, by the events of torch's own allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    now = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return result, peak


def matmul_flops(call):
    """FLOPs outside attention and convolution, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        result = call()
    counts = counter.get_flop_counts()["Global"]
    return result, sum(n for op, n in counts.items() if "attention" not in str(op) and "convolution" not in str(op))


def rehearsed_calls(rehearsal):
    return list(rehearsal.calls.select(pl.col("component", "method", "shapes").cast(pl.String)).iter_rows())


@pytest.mark.parametrize("run", RUNS)
def test_rehearsed_calls_are_those_of_a_real_run(run):
    variant, compose, more = RUNS[run]
    pipe, request = composed(variant, compose), request_for(variant, **more)
    real = [call[:3] for call in watched_run(pipe, request, lambda call: (call(), None))]
    assert rehearsed_calls(rehearse(pipe, **request)) == real
    assert len(real) >= 11


def stock_flux():
    """Build diffusers' FLUX pipeline, transformer and VAE of a few thousand parameters, for embedded prompts."""
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    kinds = {
        f"{way}_block_types": (f"{way.title()}{kind}Block2D",) for way, kind in (("down", "Encoder"), ("up", "Decoder"))
    }
    vae = diffusers.AutoencoderKL(latent_channels=4, block_out_channels=(32,), shift_factor=0.1, **kinds)
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.FluxPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **absent)


def test_rehearsed_calls_of_a_stock_pipeline_are_those_of_its_real_run():
    pipe = Pipeline.from_diffusers(stock_flux())
    pipe.progress = False
    embedded = {"prompt_embeds": torch.zeros(1, 8, 32), "pooled_prompt_embeds": torch.zeros(1, 32)}
    request = embedded | {"height": 64, "width": 96, "num_inference_steps": 3, "output_type": "pt"}
    real = [call[:3] for call in watched_run(pipe, request, lambda call: (call(), None))]
    assert rehearsed_calls(rehearse(pipe, **request)) == real
    assert [name for name, *_ in real] == ["transformer"] * 3 + ["vae"]


@cache
def alone(variant):
    """Run both checks in a process of their own: what others did to one decides which attention kernel runs."""
    done = subprocess.run([sys.executable, __file__, variant], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("variant", ["LTX-2", "LTX-2.3"])
def test_activation_peaks_of_attention_models_are_those_of_torchs_allocator(variant):
    assert alone(variant)["check_peaks"] == ""


def check_peaks(variant):
    pipe, request = composed(variant, ltx2.two_stage), request_for(variant, width=256, height=128, num_frames=17)
    rehearsal = rehearse(pipe, **request)
    peaks = rehearsal.calls.join(rehearsal.traces, on="trace")["activation_peak_bytes"]
    real = watched_run(pipe, request, allocated_peak)
    compared = {(name, own, peak) for (name, *_, peak), own in zip(real, peaks, strict=True)}
    attention = [(own, peak) for name, own, peak in compared if name in ("transformer", "connectors")]
    assert len(attention) >= 3
    assert all(own == pytest.approx(peak, rel=0.01) for own, peak in attention)
    # what is left of Gemma is the tile of scores that the CPU's kernel keeps: 256 × 512, two rows of 256, 256 × width
    tile = 4 * (256 * 512 + 2 * 256 + 256 * 16)
    assert {peak - own for name, own, peak in compared if name == "text_encoder"} == {tile}


def test_workspaces_of_convolutions_are_told_apart_from_the_peak():
    pipe, request = composed("LTX-2", ltx2.one_stage), request_for("LTX-2", width=256, height=128, num_frames=17)
    rehearsal = rehearse(pipe, **request)
    real = {name: peak for name, *_, peak in watched_run(pipe, request, allocated_peak)}
    for name in ("vae", "audio_vae", "vocoder"):
        trace = rehearsal.traces.filter(pl.col("component").cast(pl.String) == name).row(0, named=True)
        assert trace["conv_flops"] > 0
        assert trace["activation_peak_bytes"] <= real[name]
        assert trace["workspace_bytes"] > 0


@pytest.mark.parametrize("variant", ["LTX-2.3", "LTX-2"])
def test_matrix_products_are_those_that_torch_counts_in_a_real_run(variant):
    assert alone(variant)["check_products"] == ""


def check_products(variant):
    pipe, request = composed(variant, ltx2.two_stage), request_for(variant)
    rehearsal = rehearse(pipe, **request)
    counted = [flops for *_, flops in watched_run(pipe, request, matmul_flops)]
    assert rehearsal.calls.join(rehearsal.traces, on="trace")["matmul_flops"].to_list() == counted


def test_the_stg_pass_skips_attention_in_its_block_as_a_real_run_does():
    rehearsal = rehearse(composed("LTX-2.3", ltx2.one_stage), **request_for("LTX-2.3"))
    passes = rehearsal.calls.join(rehearsal.traces, on="trace").filter(pl.col("step") == 0)
    attention = dict(passes.select(pl.col("guidance_pass").cast(pl.String), "attention_flops").iter_rows())
    assert list(attention) == ["pred_cond", "pred_uncond", "pred_cond_stg", "pred_cond_modality"]
    assert attention["pred_cond"] == attention["pred_uncond"] > attention["pred_cond_stg"]


@pytest.mark.parametrize("settings", [{}, {"tiling": "on"}])
@pytest.mark.parametrize("variant", ["LTX-2", "LTX-2.3"])
def test_sharing_equal_blocks_and_tiles_changes_no_total(variant, settings):
    pipe = composed(variant, ltx2.two_stage, **settings)
    request = request_for(variant, width=768, height=512) if settings else request_for(variant)
    shared, alone = rehearse(pipe, **request), rehearse(pipe, share_blocks=False, **request)
    assert shared.traces.equals(alone.traces)
    assert shared.calls.equals(alone.calls)


def test_a_dynamic_lora_is_traced_beside_a_merged_one():
    rehearsal = rehearse(composed("LTX-2.3", ltx2.two_stage), **request_for("LTX-2.3"))
    refined = rehearsal.calls.filter(pl.col("stage").cast(pl.String) == "LTX2RefinementStage")
    kinds = rehearsal.traces["lora"].cast(pl.String)
    assert [kinds[trace] for trace in refined["trace"]] == ["dynamic"] * 3
    assert [kinds[trace] for trace in refined["merged_trace"]] == ["merged"] * 3
    flops = rehearsal.traces["flops"]
    assert flops[refined["trace"][0]] > flops[refined["merged_trace"][0]]
    assert rehearsal.calls.filter(pl.col("merged_trace").is_not_null()).height == 3
    assert rehearsal.table(lora="merged")["tflop"].sum() < rehearsal.table()["tflop"].sum()


def test_afterwards_the_pipeline_is_what_it_was_and_makes_the_same_video():
    pipe, request = composed("LTX-2.3", ltx2.two_stage), request_for("LTX-2.3")
    before = pipe.run(**request)
    weights = dict(pipe.components["transformer"].named_parameters())
    attributes = set(vars(pipe.components["vae"]))
    rehearse(pipe, **request)
    assert all(weights[path] is weight for path, weight in pipe.components["transformer"].named_parameters())
    assert set(vars(pipe.components["vae"])) == attributes
    assert not pipe.progress
    assert np.array_equal(pipe.run(**request).frames, before.frames)


def test_rehearsing_twice_says_the_same():
    pipe, request = composed("LTX-2.3", ltx2.two_stage), request_for("LTX-2.3")
    assert rehearse(pipe, **request) == rehearse(pipe, **request)


def test_a_failed_rehearsal_leaves_the_pipeline_as_it_was():
    pipe = composed("LTX-2.3 distilled", ltx2.one_stage)
    device = next(pipe.components["vae"].parameters()).device
    with pytest.raises(PipelineError, match=r"width=100 is not a multiple of 32; the nearest is 96"):
        rehearse(pipe, **request_for("distilled", width=100))
    pipe.components["scheduler"].set_timesteps = None
    with pytest.raises(TypeError):
        rehearse(pipe, **request_for("distilled"))
    assert next(pipe.components["vae"].parameters()).device == device
    assert pipe.execution_device is None


def test_glue_is_counted_under_its_stage_and_weights_are_not_glue():
    rehearsal = rehearse(composed("LTX-2.3", ltx2.two_stage), **request_for("LTX-2.3"))
    glue = {row["stage"]: row for row in rehearsal.glue.iter_rows(named=True)}
    assert list(glue) == [stage.profile_name for stage in composed("LTX-2.3", ltx2.two_stage).stages]
    assert glue["LTX2AVDenoisingStage"]["operations"] > 100
    assert glue["InputValidationStage"]["operations"] == 0
    hidden = 1024 * 32 * 4 * 9  # nine layers of 32 float32 numbers for 1024 tokens
    assert glue["TextEncodingStage"]["peak_bytes"] > 2 * hidden


class Judge(torch.nn.Module):
    """A model whose path depends on what it computes."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        score = self.layer(x).sum()
        return x * 2 if score.item() > 0 else x


class Ask(Stage):
    components = ("judge",)
    writes = ("verdict",)

    def run(self, judge, size):
        return {"verdict": judge(torch.ones(size, 4))}


def test_reading_an_unknown_number_is_an_error_that_says_where():
    pipe = Pipeline({"judge": Judge()}).add(Ask)
    with pytest.raises(UnknownValueError, match=r"test_rehearse.py:\d+ in forward"):
        rehearse(pipe, size=3)


def test_a_listed_answer_with_its_reason_stands_for_the_number():
    pipe = Pipeline({"judge": Judge()}).add(Ask)
    rehearsal = rehearse(pipe, size=3, answers={"test_rehearse.py:forward": (1.0, "scores are positive")})
    assert rehearsal.calls.height == 1
    assert rehearsal.traces["flops"].to_list() == [2 * 3 * 4 * 4]


class Spectrum(torch.nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x * 2).abs()


def test_an_operation_without_a_cost_formula_is_listed_with_its_share_and_takes_a_formula():
    pipe = Pipeline({"judge": Spectrum()}).add(Ask)
    with pytest.raises(RehearsalError, match=r"_fft_r2c \(1 calls, \d+ % of the bytes\)"):
        rehearse(pipe, size=8)
    rehearsal = rehearse(pipe, size=8, costs={"_fft_r2c": lambda args, out: 80})
    assert rehearsal.total_flops == 80


def test_collecting_garbage_is_left_as_it_was_also_when_a_rehearsal_fails():
    pipe = Pipeline({"layer": torch.nn.Linear(2, 2)}).add(stage(lambda layer, x: {"y": layer(x)}), name="compute")
    collecting = gc.isenabled()
    try:
        for wanted in (True, False):
            (gc.enable if wanted else gc.disable)()
            rehearse(pipe, x=torch.ones(1, 2))
            assert gc.isenabled() is wanted
            with pytest.raises(RuntimeError):
                rehearse(pipe, x=torch.ones(1, 3))
            assert gc.isenabled() is wanted
    finally:
        (gc.enable if collecting else gc.disable)()


class Tiling(torch.nn.Module):
    use_tiling = False

    def decode(self, x):
        return {"video": x.sum(0) if self.use_tiling else x.sum(1)}


def test_a_switch_for_tiles_that_a_class_has_is_its_own_again_after_a_rehearsal():
    vae = Tiling()
    pipeline = Pipeline({"vae": vae}).add(stage(lambda vae, x: vae.decode(x)), name="decode")
    rehearsal = rehearse(pipeline, x=torch.ones(3, 5))
    assert rehearsal.calls["tiled_trace"].null_count() == 0
    assert "use_tiling" not in vars(vae)


if __name__ == "__main__":  # `alone` reads what failed
    torch.set_num_threads(1)
    failed = dict.fromkeys(("check_peaks", "check_products"), "")
    for each in (check_peaks, check_products):
        try:
            each(sys.argv[1])
        except Exception:
            failed[each.__name__] = traceback.format_exc()
    sys.stdout.write(json.dumps(failed))
