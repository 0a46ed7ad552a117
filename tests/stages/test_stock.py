"""The stages of stock pipelines, found from their component calls, on tiny pipelines of diffusers' own."""

from importlib import util
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from reslab.stages import Pipeline, PipelineError, Section, StockStage, stage

torch.set_num_threads(1)

spec = util.spec_from_file_location("modular_models", Path(__file__).with_name("modular_models.py"))
models = util.module_from_spec(spec)
spec.loader.exec_module(models)

ENCODERS = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
POOLED = {"pooled_prompt_embeds": models.noise(1, 32)}


def flux():
    return diffusers.FluxPipeline(**models.made(models.flux), **ENCODERS), models.pictures(**POOLED)()


def flux_from_a_picture():
    pipe = diffusers.FluxImg2ImgPipeline(**models.made(models.flux), **ENCODERS)
    more = {"image": models.image(), "strength": 0.6, "num_inference_steps": 4}
    return pipe, models.pictures(**POOLED, **more)()


def stable_diffusion_xl():
    parts = models.made(models.stable_diffusion_xl)
    pipe = diffusers.StableDiffusionXLPipeline(**parts, **ENCODERS, add_watermarker=False)
    return pipe, models.pictures(**models.POOLED, **models.NEGATIVE)()


def wan():
    parts = models.made(models.wan22)
    pipe = diffusers.WanPipeline(**parts, text_encoder=None, tokenizer=None, boundary_ratio=0.9)
    return pipe, models.frames(**models.NEGATIVE, num_inference_steps=4)()


PIPELINES = {make.__name__: make for make in (flux, flux_from_a_picture, stable_diffusion_xl, wan)}

#: What observers hear of each: its stages, steps, passes and calls, shortened.
HEARD = {
    "flux": "denoise: 0 [cond] transformer 1 [cond] transformer; decode: vae",
    "flux_from_a_picture": (  # 0.6 of four steps are two, and diffusers rounds up: the last three of four
        "encode: vae; denoise: 0 transformer 1 transformer 2 transformer; decode: vae"
    ),
    "stable_diffusion_xl": "denoise: 0 unet 1 unet; decode: vae",
    "wan": (
        "denoise: 0 [cond] transformer [uncond] transformer 1 [cond] transformer [uncond] transformer; "
        "denoise_2: 2 [cond] transformer_2 [uncond] transformer_2 3 [cond] transformer_2 [uncond] transformer_2; "
        "decode: vae"
    ),
}


def seeded(request):
    return {**request, "generator": torch.Generator().manual_seed(3)}


def composed(name):
    pipe, request = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    return Pipeline.from_diffusers(pipe), request


def heard(lines):
    stages = []
    for line in lines[1:]:
        depth, text = (len(line) - len(line.lstrip())) // 2, line.split()
        if line.lstrip().startswith("stage"):
            stages.append((text[1], []))
            assert (depth, int(text[2])) == (1, len(stages) - 1)
        elif line.lstrip().startswith("step"):
            stages[-1][1].append(text[2])
        elif line.lstrip().startswith("guidance"):
            stages[-1][1].append(f"[{text[2]}]")
        else:
            stages[-1][1].append(text[2].split(".")[0])
    return "; ".join(f"{name}: {' '.join(calls)}" for name, calls in stages)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PIPELINES)
def test_observers_hear_of_stages_steps_and_passes_and_change_no_bit(name, log):
    pipeline, request = composed(name)
    want = pipeline.run(**seeded(request))
    with pipeline.observe(log):
        got = pipeline.run(**seeded(request))
    assert heard(log.lines) == HEARD[name]
    assert torch.equal(torch.as_tensor(want[0]), torch.as_tensor(got[0]))
    assert [each.registered_name for each in pipeline.stages] == [
        part.split(":")[0] for part in HEARD[name].split("; ")
    ]


def test_the_components_suggest_stages_before_the_first_run():
    assert repr(composed("wan")[0].stages) == "Stages(denoise, denoise_2, decode)"
    assert repr(composed("flux_from_a_picture")[0].stages) == "Stages(denoise, decode)"


def test_what_a_run_finds_is_kept_with_its_names():
    pipeline, request = composed("flux_from_a_picture")
    pipeline.stages.denoise.set_registered_name("paint")
    decode = pipeline.stages.decode
    for _ in range(2):
        with pipeline.observe(type("Silent", (), {"begin": lambda *_: None, "end": lambda *_: None})()):
            pipeline.run(**seeded(request))
    assert repr(pipeline.stages) == "Stages(encode, paint, decode)"
    assert pipeline.stages.decode is decode


@pytest.mark.parametrize(("before", "want"), [("last", "new, last"), ("decode", "new, denoise, decode, last")])
def test_a_stage_is_inserted_before_another_though_a_stock_pipeline_has_several(before, want):
    pipeline = composed("flux")[0].add(stage(lambda: None), name="last")
    pipeline.add(stage(lambda: None), name="new", before=before)
    assert want in repr(pipeline.stages)


def test_an_unobserved_run_wraps_nothing():
    pipeline, request = composed("flux")
    seen = []
    pipeline.components["transformer"].register_forward_pre_hook(
        lambda module, _arguments: seen.append("forward" in module.__dict__)
    )
    pipeline.run(**seeded(request))
    assert seen == [False, False]


class Block(torch.nn.Module):
    """Adds one, or fails in the call that is given."""

    fails = None

    def forward(self, latents, timestep=None):
        if self.fails is not None:
            raise self.fails
        return latents + 1


class Encoder(torch.nn.Module):
    def forward(self, latents):
        return latents

    encode = decode = forward


class Toy:
    """What a stock pipeline looks like; it calls what its script says, or lets its scheduler step."""

    def __init__(self, script, **parts):
        self.script, self.components = script, parts
        vars(self).update(parts)

    def __call__(self, latents=0.0):
        for line in self.script.split():
            name, _, more = line.partition(".")
            if name == "step":
                self.scheduler.step(torch.zeros(1), self.scheduler.timesteps[0], torch.zeros(1))
            elif more in ("encode", "decode"):
                latents = getattr(getattr(self, name), more)(latents)
            elif more:
                latents = getattr(self, name)(latents, float(more))
            else:
                latents = getattr(self, name)(latents)
        return latents


def toy(script, scheduler=None):
    """Return the pipeline that makes these calls, each "component", "component.method" or "component.timestep"."""
    parts = {"vae": Encoder(), "text_encoder": Encoder(), "safety_checker": Encoder(), "vocoder": Encoder()}
    parts |= {"transformer": Block(), "controlnet": Block(), "latent_upsampler": Encoder()}
    used = {line.partition(".")[0] for line in script.split()}
    parts = {name: part for name, part in parts.items() if name in used}
    return Pipeline.from_diffusers(Toy(script, **parts, **({"scheduler": scheduler} if scheduler else {})))


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("text_encoder vae.encode transformer.9 transformer.8 vae.decode vocoder", "encode, denoise, decode"),
        ("transformer.9 latent_upsampler transformer.5 vae.decode", "denoise, upscale, denoise_2, decode"),
        ("transformer.9 vae.decode transformer.9 vae.decode", "denoise, decode, denoise_2, decode_2"),
        ("transformer.9 vae.decode safety_checker", "denoise, decode, safety_checker"),
        ("controlnet.9 transformer.9 controlnet.8 transformer.8", "denoise"),
        ("transformer.9 transformer.8 controlnet.7 controlnet.6", "denoise, denoise_2"),
        ("vae.decode", "decode"),
    ],
)
def test_a_stage_ends_where_the_role_of_the_calls_changes(script, found, log):
    pipeline = toy(script)
    with pipeline.observe(log):
        pipeline.run()
    assert ", ".join(line.split()[1] for line in log.lines if line.startswith("  stage")) == found


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        ("transformer.9 transformer.9 transformer.8 transformer.8", [2, 2]),  # guided: two calls a timestep
        ("controlnet.9 transformer.9 controlnet.8 transformer.8", [2, 2]),
        ("transformer.9 vae.decode transformer.9", [1, 1]),
        ("transformer transformer transformer", [1, 1, 1]),  # no timestep is given: a call is a step
    ],
)
def test_a_step_ends_where_the_timestep_changes(script, steps, log):
    pipeline = toy(script)
    with pipeline.observe(log):
        pipeline.run()
    assert calls_by_step(log.lines) == steps


def calls_by_step(lines):
    counts = []
    for line in lines:
        if line.lstrip().startswith("step "):
            counts.append(0)
        elif line.startswith("      "):
            counts[-1] += 1
    return counts


def test_a_step_ends_where_the_scheduler_steps_though_the_timestep_stays(log):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    script = "transformer.9 step transformer.9 transformer.9 step transformer.9 step vae.decode"
    pipeline = toy(script, scheduler)
    with pipeline.observe(log):
        pipeline.run()
    assert calls_by_step(log.lines) == [1, 2, 1]
    assert log.lines[-2:] == ["  stage decode 1", "    component call vae.decode"]


def test_what_is_called_inside_an_unfinished_loop_belongs_to_it(log):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    pipeline = toy("transformer.9 step vae.decode transformer.8 step vae.decode", scheduler)
    with pipeline.observe(log):
        pipeline.run()
    stages = [line.split()[1] for line in log.lines if line.startswith("  stage")]
    assert stages == ["denoise", "decode"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), MemoryError()], ids=lambda each: type(each).__name__
)
def test_whatever_ends_the_call_ends_what_is_open_in_it(error, log):
    pipeline = toy("text_encoder transformer.9")
    pipeline.components["transformer"].fails = error
    with pipeline.observe(log), pytest.raises(type(error)) as caught:
        pipeline.run()
    ended = f" ! {type(error).__name__}"
    assert log.lines == [
        "run Toy" + ended,
        "  stage encode 0",
        "    component call text_encoder.forward",
        "  stage denoise 1" + ended,
        "    step step 0" + ended,
        "      component call transformer.forward" + ended,
    ]
    assert caught.value.__notes__ == ["in the stage 'denoise' (2 of 2) of 'Toy'"]
    assert log.open == []


def test_an_error_in_an_unobserved_call_names_the_call():
    pipeline = toy("text_encoder transformer.9")
    pipeline.components["transformer"].fails = ValueError("no")
    with pytest.raises(ValueError, match="no") as caught:
        pipeline.run()
    assert caught.value.__notes__ == ["in the call of 'Toy', of 'Toy'"]


class Borders:
    """A conductor that writes down what it is asked to act around."""

    execution_device, may_retry = None, False

    def __init__(self):
        self.lines = []

    def stage(self, stage, call):
        self.lines.append(stage.registered_name)
        call()

    def sections(self, stock, call):
        self.lines.append(f"call of {stock.stage_class}")
        call()
        self.lines.append("end of the call")

    def section(self, stage):
        borders = self

        class Border:
            def __enter__(self):
                borders.lines.append(f"enter {stage.registered_name}")

            def __exit__(self, kind, *_):
                borders.lines.append(f"leave {stage.registered_name}" + (f" by {kind.__name__}" if kind else ""))

        return Border()

    def component_call(self, component, method, call):
        self.lines.append(component)
        return call()


def test_a_conductor_acts_around_each_section_and_the_whole_call():
    pipeline = toy("text_encoder transformer.9 vae.decode").add(stage(lambda output: {"got": output}), name="after")
    conductor = Borders()
    pipeline.components["vae"].decode = None
    with pipeline.conduct(conductor), pytest.raises(TypeError):
        pipeline.run()
    assert conductor.lines == [
        "call of Toy", "enter encode", "text_encoder", "leave encode", "enter denoise", "transformer",
        "leave denoise by TypeError",
    ]  # fmt: skip
    del pipeline.components["vae"].decode, conductor.lines[:]
    with pipeline.conduct(conductor):
        assert pipeline.run() == 1
    assert conductor.lines[-4:] == ["vae", "leave decode", "end of the call", "after"]


def test_stages_of_a_stock_pipeline_stand_beside_others_with_unique_names(log):
    pipe = toy("text_encoder transformer.9").stages[0].stock.pipe
    pipeline = Pipeline({**pipe.components}, result="output").add(StockStage(pipe), name="base")
    pipeline.add(stage(lambda output: {"output": output * 2}), name="double")
    assert repr(pipeline.stages) == "Stages(base.encode, base.denoise, double)"
    with pytest.raises(PipelineError, match=r"already registered as 'base\.denoise'"):
        pipeline.add(stage(lambda output: None), name="base.denoise")
    with pipeline.observe(log):
        assert pipeline.run() == 2
    assert [line for line in log.lines if line.startswith("  stage")] == [
        "  stage base.encode 0", "  stage base.denoise 1", "  stage double 2",
    ]  # fmt: skip
    assert "base.denoise" in pipeline._repr_html_()


def test_a_section_says_what_it_is():
    section = composed("wan")[0].stages.denoise_2
    assert isinstance(section, Section)
    assert (section.stage_class, section.used, section.profile_name) == ("denoise", ("transformer_2",), "denoise_2")
    with pytest.raises(TypeError, match="'denoise_2' runs inside the call of WanPipeline"):
        section.run()


@pytest.mark.parametrize(("module", "notes"), [("diffusers.pipelines.wan", 2), ("mine", 1)])
def test_a_package_that_diffusers_misses_is_named(module, notes):
    """As Wan's prompts without ftfy: diffusers imports it only where it is installed, and fails by its name."""
    exec("def clean(): return ftfy.fix_text('a')", code := {"__name__": module})
    pipeline = Pipeline().add(stage(code["clean"]), name="encode")
    with pytest.raises(NameError) as caught:
        pipeline.run()
    assert len(caught.value.__notes__) == notes
    if notes == 2:
        assert caught.value.__notes__[0] == "diffusers uses 'ftfy' here, a package that is not installed"
