"""Stock pipelines by their stages: rehearsed, bounded, profiled, and managed without changing a bit."""

import doctest
import importlib.util
import re
import weakref
from pathlib import Path

import diffusers
import polars as pl
import pytest
import torch

from reslab import ltx2, residency
from reslab.profiler import Profiler
from reslab.residency import OutOfMemory, Plan, apply, blank, bounds, device, preset, rehearse, workload
from reslab.stages import Pipeline

torch.set_num_threads(1)

MODELS = Path(__file__).parents[1] / "stages" / "modular_models.py"
spec = importlib.util.spec_from_file_location("modular_models", MODELS)
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)

ENCODERS = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
POOLED = {"pooled_prompt_embeds": models.noise(1, 32)}


def flux():
    return diffusers.FluxPipeline(**models.made(models.flux), **ENCODERS), models.pictures(**POOLED)()


def flux_from_a_picture():
    pipe = diffusers.FluxImg2ImgPipeline(**models.made(models.flux), **ENCODERS)
    return pipe, models.pictures(**POOLED, image=models.image(), strength=0.6, num_inference_steps=4)()


def stable_diffusion_xl():
    parts = models.made(models.stable_diffusion_xl)
    pipe = diffusers.StableDiffusionXLPipeline(**parts, **ENCODERS, add_watermarker=False)
    return pipe, models.pictures(**models.POOLED, **models.NEGATIVE)()


def wan():
    parts = models.made(models.wan22)
    pipe = diffusers.WanPipeline(**parts, text_encoder=None, tokenizer=None, boundary_ratio=0.9)
    return pipe, models.frames(**models.NEGATIVE, num_inference_steps=4)()


def ltx():
    parts = dict(ltx2.load("tiny", variant="LTX-2").components)
    parts.pop("latent_upsampler")
    size = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    return diffusers.LTX2Pipeline(**parts), {"prompt": "a", **size, "max_sequence_length": 256, "output_type": "pt"}


def ltx_upscaler():
    parts = ltx2.load("tiny", variant="LTX-2").components
    pipe = diffusers.LTX2LatentUpsamplePipeline(parts["vae"], parts["latent_upsampler"])
    size = {"width": 64, "height": 64, "num_frames": 9, "output_type": "pt"}
    return pipe, {"video": [models.image(64, 64) for _ in range(9)], **size}


PIPELINES = {make.__name__: make for make in (flux, flux_from_a_picture, stable_diffusion_xl, wan, ltx, ltx_upscaler)}
STAGES = {
    "flux": ("denoise", "decode"),
    "flux_from_a_picture": ("encode", "denoise", "decode"),
    "stable_diffusion_xl": ("denoise", "decode"),
    "wan": ("denoise", "denoise_2", "decode"),
    "ltx": ("encode", "denoise", "decode"),
    "ltx_upscaler": ("encode", "upscale", "decode"),
}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def composed(name):
    pipe, request = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    return Pipeline.from_diffusers(pipe), request


def run(pipeline, request):
    output = pipeline.run(**request, generator=torch.Generator().manual_seed(3))
    return [torch.as_tensor(each) for each in output.values()]


def everywhere(pipeline, placement):
    modules = (name for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module))
    return Plan.of(dict.fromkeys(modules, placement))


@pytest.mark.parametrize("placement", ["layerwise", "swap until each"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_managed_stock_pipeline_has_the_same_bits_in_every_run(name, placement):
    pipeline, request = composed(name)
    want = run(pipeline, request)
    each = residency.swap(until="each stage") if placement == "swap until each" else placement
    with apply(pipeline, everywhere(pipeline, each)) as managed:
        for _ in range(2):  # the first run finds the calls, the second follows them
            assert all(torch.equal(a, b) for a, b in zip(want, run(pipeline, request), strict=True))
        assert managed.workload.stages == STAGES[name]
    assert managed.notes == ()
    assert all(torch.equal(a, b) for a, b in zip(want, run(pipeline, request), strict=True))


@pytest.mark.parametrize("name", ["flux", "wan", "ltx"])
def test_a_swap_alternates_at_the_borders_of_stages(name):
    pipeline, request = composed(name)
    sizes = {}
    with apply(pipeline, everywhere(pipeline, residency.swap(until="each stage"))) as managed:
        run(pipeline, request)
        for part, size in managed.workload.components.items():
            sizes[part] = size.weight_bytes
        run(pipeline, request)
        by_stage = [{call.component for call in calls} for calls in managed.workload.by_stage]
        largest = max(sum(sizes[part] for part in stage) for stage in by_stage)
        # each weight begins at a multiple of 64 bytes, which is at most a twentieth of models as small as these
        assert largest <= managed.peak_bytes <= 1.05 * largest < sum(sizes.values())


@pytest.mark.parametrize("name", PIPELINES)
def test_a_rehearsal_has_the_stages_steps_and_calls_of_a_real_run(name):
    pipeline, request = composed(name)
    with Profiler(pipeline) as prof:
        run(pipeline, request)
    profile, rehearsal = prof.profile, rehearse(pipeline, **request)
    names = tuple(rehearsal.glue["registered_name"].cast(pl.String))
    classes = profile.spans.filter(pl.col("kind").cast(pl.String) == "stage")["stage_class"].cast(pl.String)
    assert classes.to_list() == [stage.partition("_")[0] for stage in STAGES[name]]
    assert names == STAGES[name] == tuple(profile.stages()["stage"].cast(pl.String))[:-1]
    real = profile.spans.filter(pl.col("kind").cast(pl.String) == "component call")
    columns = ("registered_name", "component", "step", "guidance_pass")
    seen = [[str(value) for value in row] for row in real.select(*columns).iter_rows()]
    assert [[str(value) for value in row] for row in rehearsal.calls.select(*columns).iter_rows()] == seen
    assert rehearsal.calls["live_bytes"].min() >= 0


@pytest.mark.parametrize(("name", "steps"), [("flux", 2), ("stable_diffusion_xl", 2), ("wan", 4), ("ltx", 2)])
def test_a_profile_has_a_row_a_step_of_the_scheduler(name, steps):
    pipeline, request = composed(name)
    with Profiler(pipeline) as prof:
        run(pipeline, request)
    assert prof.profile.steps()["step"].to_list() == list(range(steps))


def flops(rehearsal):
    return rehearsal.calls.join(rehearsal.traces, on="trace")["flops"].sum()


def test_a_batch_is_one_call_of_twice_the_work():
    pipeline, request = composed("flux")
    one = rehearse(pipeline, **request)
    two = rehearse(pipeline, **request, num_images_per_prompt=2)
    assert two.calls.height == one.calls.height
    assert flops(two) == pytest.approx(2 * flops(one), rel=0.05)
    with apply(pipeline, everywhere(pipeline, "swap")):
        (images,) = run(pipeline, request | {"num_images_per_prompt": 2})
    assert images.shape[0] == 2


@pytest.mark.parametrize(("scale", "batch", "calls"), [({}, 2, 6), ({"guidance_scale": 1.0}, 2, 6), ("off", 1, 2)])
def test_guidance_of_ltx_counts_passes_and_not_steps(scale, batch, calls):
    pipeline, request = composed("ltx")
    off = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}
    off |= {f"audio_{name}": value for name, value in off.items()}
    rehearsal = rehearse(pipeline, **request, **(off if scale == "off" else scale))
    rows = rehearsal.calls.filter(pl.col("component").cast(pl.String) == "transformer")
    assert rows.height == calls
    assert rows["step"].unique().sort().to_list() == [0, 1]
    assert rows["shapes"].cast(pl.String)[0].startswith(f"hidden_states {batch}×")


def test_flux_by_stages_is_bounded_as_its_blocks_are():
    """Transformer and the activations of its own calls: 22.63 GiB; all at once 33.80 (reports.md 2.1)."""
    rehearsal = rehearse(blank("FLUX.1-dev"), prompt="a", width=1024, height=1024, num_inference_steps=28)
    card = device("L20")
    peaks = {
        name: bounds(rehearsal, preset(name, rehearsal), card).peak_bytes / 2**30
        for name in ("diffusers model offload", "all resident")
    }
    assert peaks["diffusers model offload"] == pytest.approx(22.63, abs=0.005)
    assert peaks["all resident"] == pytest.approx(33.80, abs=0.005)


def test_calls_known_from_a_rehearsal_are_followed_from_the_first_run_on():
    pipeline, request = composed("wan")
    known = workload(rehearse(pipeline, **request))
    with apply(pipeline, everywhere(pipeline, "layerwise"), known=known) as managed:
        run(pipeline, request)
    assert managed.notes == ()
    assert set(managed.fetched_bytes) == {"denoise", "denoise_2", "decode"}


def test_a_placement_for_one_stage_of_a_stock_pipeline_holds_there_alone():
    pipeline, request = composed("flux_from_a_picture")
    rehearse(pipeline, **request)  # so that the stage encode is known
    plan = Plan.of({"vae@encode": "layerwise", "vae": "swap", "transformer": "swap"})
    want = run(pipeline, request)
    with apply(pipeline, plan) as managed:
        assert all(torch.equal(a, b) for a, b in zip(want, run(pipeline, request), strict=True))
        assert managed.plan.placement("vae", "encode") != managed.plan.placement("vae", "decode")


class Fault:
    """Raises in a forward of a component, the given number of times."""

    def __init__(self, module, error, times=1):
        self.error, self.times = error, times
        self.handle = module.register_forward_hook(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def __call__(self, _module, _arguments, output):
        if self.times > 0:
            self.times -= 1
            self.kept = weakref.ref(output[0])
            raise type(self.error)(*self.error.args)  # another one: an error keeps the frames it was raised in
        if (kept := getattr(self, "kept", None)) is not None:
            assert kept() is None, "what the failed call held is still there"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_after_an_error_inside_the_call_the_next_run_has_the_same_bits(name, error):
    pipeline, request = composed(name)
    want = run(pipeline, request)
    with apply(pipeline, everywhere(pipeline, residency.swap(until="each stage"))) as managed:
        run(pipeline, request)
        with Fault(pipeline.components["transformer"], error):
            with pytest.raises(type(error)):
                run(pipeline, request)
            assert managed.device_bytes == 0
            assert all(torch.equal(a, b) for a, b in zip(want, run(pipeline, request), strict=True))


@pytest.mark.parametrize("runs_before", [0, 1])
def test_out_of_memory_runs_the_whole_call_again_with_a_leaner_plan(runs_before):
    pipeline, request = composed("flux")
    want = run(pipeline, request)
    with apply(pipeline, Plan.of(), on_oom="step-down") as managed:
        for _ in range(runs_before):
            run(pipeline, request)
        with Fault(pipeline.components["transformer"], torch.OutOfMemoryError("Tried to allocate 1.50 GiB")):
            assert all(torch.equal(a, b) for a, b in zip(want, run(pipeline, request), strict=True))
        assert "the stage 'denoise' ran out of memory" in managed.notes[0]
        assert all(torch.equal(a, b) for a, b in zip(want, run(pipeline, request), strict=True))


def test_out_of_memory_without_a_leaner_plan_names_the_stage():
    pipeline, request = composed("flux")
    error = torch.OutOfMemoryError("Tried to allocate 1.50 GiB")
    fault = Fault(pipeline.components["vae"].decoder, error)
    with apply(pipeline, Plan.of()), fault, pytest.raises(OutOfMemory, match="the stage 'decode' ran out of memory"):
        run(pipeline, request)


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.inner(x)


class Toy:
    """Uses a part of its text encoder before any component is called."""

    def __init__(self):
        self.components = {"text_encoder": Parts(), "vae": Parts()}

    def __call__(self, x):
        return self.components["vae"](self.components["text_encoder"].inner(x))


def test_a_part_that_is_used_before_any_call_begins_the_stage_of_its_component():
    pipeline = Pipeline.from_diffusers(Toy())
    x = torch.ones(2)
    want = pipeline.run(x=x)
    with torch.no_grad(), apply(pipeline, everywhere(pipeline, "swap")) as managed:
        assert torch.equal(pipeline.run(x=x), want)
        assert managed.workload.stages == ("encode", "decode")
        assert [call.component for call in managed.workload.calls] == ["text_encoder", "vae"]


def test_the_session_of_the_projects_readme_gives_what_it_shows():
    readme = Path(__file__).parents[2] / "README.md"
    sessions = re.findall(r"```pycon\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(sessions), {}, "README", str(readme), 0)
    assert len(test.examples) >= 6
    assert doctest.DocTestRunner().run(test).failed == 0
