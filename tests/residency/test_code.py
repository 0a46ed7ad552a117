"""Plans as settings of other tools: the calls exist and run, components are named, no difference is left out."""

import ast
import inspect
import random
import shlex
from dataclasses import replace

import accelerate
import pytest
import torch
from diffusers import AutoencoderKLLTX2Video, DiffusionPipeline, LTX2Pipeline, ModelMixin
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup

from reslab import ltx2
from reslab.residency import ComponentSize, Placement, Plan, PlanError, Workload, disk, layerwise, preset, presets, swap
from reslab.residency._plan._placement import Granularity, Place, Until

PARTS = ("text_encoder", "connectors", "transformer", "vae", "audio_vae", "vocoder")
SIZE = ComponentSize(outside_bytes=8, block_bytes=(1, 1, 1, 1))
WORK = Workload(components=dict.fromkeys(PARTS, SIZE), stages=("denoise", "refine"), calls=())
FIELDS = ("resident", "prefetch", "prefetch_stages", "until", "granularity", "copy_back")


def random_plan(rng):
    chosen = {}
    for name in rng.sample(PARTS, rng.randint(1, 6)):
        kind = rng.choice([*Place])
        own = {"until": Until.EACH, "prefetch_stages": rng.choice((0, 1))} if kind is Place.SWAP else {}
        if kind in (Place.LAYERWISE, Place.DISK):
            own = {
                "resident": rng.choice((0, 2)),
                "layout": rng.choice(("strided", "leading")),
                "prefetch": rng.choice((0, 1, 3)),
                "until": rng.choice([*Until]),
                "granularity": rng.choice([*Granularity]),
            }
        if kind is not Place.RESIDENT:
            own |= {"copy_back": rng.random() < 0.5}
        chosen[name] = {"placement": kind, **own}
        if rng.random() < 0.2:
            chosen[f"{name}@refine"] = "resident"
    return Plan.of(chosen)


RNG = random.Random(5)
PLANS = [preset(name, WORK) for name in presets()] + [random_plan(RNG) for _ in range(150)]


def described(code, names):
    """What each component gets from code for diffusers, read from its calls alone."""
    found = {}
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        text = ast.unparse(call)
        function = ast.unparse(call.func).rpartition(".")[2]
        if function in EFFECTS:
            named = [name for name in names if f"components['{name}']" in text]
            options = {each.arg: ast.unparse(each.value) for each in call.keywords}
            for name in named or (names if text.startswith("pipe.") else ()):
                found[name] = EFFECTS[function](options)
    return found


def sequential(_options):
    return Placement(kind=Place.LAYERWISE, prefetch=0, until=Until.EACH, granularity=Granularity.LEAF)


def grouped(options):
    on_disk, streamed = "offload_to_disk_path" in options, options.get("use_stream") == "True"
    return Placement(
        kind=Place.DISK if on_disk else Place.LAYERWISE,
        prefetch=int(streamed),
        until=Until.EACH,
        granularity=Granularity.LEAF if "leaf" in options["offload_type"] else Granularity.GROUP,
        copy_back=not (on_disk or streamed),
    )


def whole(_options):
    return Placement(kind=Place.SWAP, until=Until.EACH, copy_back=True)


EFFECTS = {
    "to": lambda _options: Placement(),
    "enable_model_cpu_offload": whole,
    "cpu_offload_with_hook": whole,
    "enable_sequential_cpu_offload": sequential,
    "cpu_offload": sequential,
    "enable_group_offload": grouped,
    "apply_group_offloading": grouped,
}


def sentences_about(name, differences):
    return [each for each in differences if name in each.partition(":")[0].split(", ")]


def differing_fields(wanted, got):
    if wanted.kind is not got.kind:
        return 1
    return sum(getattr(wanted, field) != getattr(got, field) for field in FIELDS)


def has_own_place(plan, name):
    """Whether a component is elsewhere in one stage, which no other tool can do."""
    return (name, "refine") in plan.placements and plan.placement(name, "refine") != plan.placement(name)


def test_code_for_diffusers_names_every_component_and_each_difference_once():
    for plan in PLANS:
        made = plan.as_code("diffusers")
        compile(str(made), "pasted", "exec")  # with its comments
        names = [name for name in PARTS if any(name == component for component, _ in plan.placements)]
        got = described(made.code, names)
        assert sorted(got) == sorted(names)
        for name in names:
            wanted = plan.placement(name)
            expected = differing_fields(wanted, got[name]) + has_own_place(plan, name) + (wanted.kind is Place.DISK)
            assert len(sentences_about(name, made.differences)) == expected, made


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("all resident", 'pipe.to("cuda")'),
        ("diffusers model offload", 'pipe.enable_model_cpu_offload(device="cuda")'),
        (
            "diffusers group offload",
            'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="block_level", '
            "num_blocks_per_group=1)",
        ),
        (
            "diffusers group offload, streamed",
            'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="block_level", '
            "num_blocks_per_group=1, use_stream=True)",
        ),
        ("diffusers sequential offload", 'pipe.enable_sequential_cpu_offload(device="cuda")'),
    ],
)
def test_a_preset_that_describes_diffusers_is_exactly_its_call(name, call):
    made = preset(name, WORK).as_code("diffusers")
    assert made.differences == ()
    assert [line for line in made.code.splitlines() if line.startswith("pipe.")] == [call]


@pytest.mark.parametrize(("device", "streams"), [("cuda:1", True), ("xpu", True), ("cpu", False), ("mps", False)])
def test_streams_are_written_where_diffusers_has_them_with_what_they_pin(device, streams):
    for plan in (preset("diffusers group offload, streamed", WORK), Plan.of({"transformer": layerwise(prefetch=2)})):
        made = plan.as_code("diffusers", device=device)
        assert ("use_stream=True" in made.code) == ("low_cpu_mem_usage=True" in made.code) == streams
        ahead = [each for each in made.differences if "ahead" in each or "prefetch" in each]
        assert streams or ahead  # what is not fetched ahead there is said


def test_streamed_code_runs_on_a_cpu_where_diffusers_refuses_streams(pipe):
    want = latents(pipe)
    code = Plan.of({"transformer": layerwise(prefetch=2)}).as_code("diffusers", device="cpu").code
    exec(code, {"pipe": pipe})
    torch.testing.assert_close(latents(pipe), want)


NUMERICS = {"numerics.weight_dtype": "float8", "numerics.attention": "math", "numerics.vae_tiling": "on"}
#: What the calls reach, and how many arguments come before those that are written.
FUNCTIONS = {
    "apply_group_offloading": (apply_group_offloading, 0),
    "cpu_offload": (accelerate.cpu_offload, 0),
    "cpu_offload_with_hook": (accelerate.cpu_offload_with_hook, 0),
    "enable_layerwise_casting": (ModelMixin.enable_layerwise_casting, 1),
    "set_attention_backend": (ModelMixin.set_attention_backend, 1),
    "enable_tiling": (AutoencoderKLLTX2Video.enable_tiling, 1),
} | {
    name: (getattr(DiffusionPipeline, name), 1)
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload")
}


def test_every_call_fits_the_signature_of_the_function_that_it_reaches():
    seen = set()
    for plan in [*PLANS, Plan.of({"transformer": "swap", **NUMERICS})]:
        for call in (
            node for node in ast.walk(ast.parse(plan.as_code("diffusers").code)) if isinstance(node, ast.Call)
        ):
            name = ast.unparse(call.func).rpartition(".")[2]
            if name in FUNCTIONS:
                function, implicit = FUNCTIONS[name]
                named = {each.arg: None for each in call.keywords}
                inspect.signature(function).bind(*[None] * (implicit + len(call.args)), **named)
                seen.add(name)
    assert seen == set(FUNCTIONS)


@pytest.fixture
def pipe():
    parts = ltx2.load("tiny", variant="LTX-2.3").components
    parts = {name: part for name, part in parts.items() if name != "latent_upsampler"}
    pipe = LTX2Pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe):
    request = {"prompt": "a heron", "width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    return pipe(**request, generator=torch.Generator().manual_seed(7), output_type="latent", return_dict=False)[0]


MIXED = {
    "text_encoder": layerwise(prefetch=0),
    "transformer": disk(prefetch=0),
    "vae": {"placement": "layerwise", "granularity": "leaf", "prefetch": 0, "copy_back": True},
    "connectors": swap(),
    "audio_vae": swap(),
}


@pytest.mark.parametrize(
    "plan",
    [
        # not sequential: accelerate 1.15 cannot put a parameter back on a CPU
        *(preset(f"diffusers {kind} offload", WORK) for kind in ("model", "group")),
        preset("all resident", WORK),
        Plan.of(MIXED | {"numerics.vae_tiling": "on"}, name="mixed"),
    ],
    ids=lambda plan: plan.name,
)
def test_the_code_runs_on_a_real_pipeline_and_computes_the_same(pipe, plan, tmp_path, monkeypatch):
    """Within rounding: weights that diffusers maps from files lie at other addresses, and kernels differ by that."""
    monkeypatch.chdir(tmp_path)
    want = latents(pipe)
    exec(str(plan.as_code("diffusers", device="cpu")), {"pipe": pipe})
    torch.testing.assert_close(latents(pipe), want)
    assert (tmp_path / "offload" / "transformer").exists() == (plan.name == "mixed")


def test_weights_in_eight_bits_are_cast_before_anything_else(pipe):
    code = Plan.of({"transformer": layerwise(prefetch=0), **NUMERICS}).as_code("diffusers", device="cpu").code
    exec(code, {"pipe": pipe})
    stored = {weight.dtype for weight in pipe.transformer.transformer_blocks[0].parameters()}
    assert torch.float8_e4m3fn in stored
    assert code.index("enable_layerwise_casting") < code.index("apply_group_offloading(")


def test_the_trap_of_group_offload_with_a_vae_is_real_and_told(pipe, monkeypatch):
    code = preset("diffusers group offload", WORK).as_code("diffusers", device="cpu").code
    assert '# decode() of a VAE class without _group_offload_block_modules wants offload_type="leaf_level"' in code
    exec(code, {"pipe": pipe})
    onloaded = []
    monkeypatch.setattr(ModuleGroup, "onload_", onloaded.append)
    with torch.no_grad():
        pipe.vae.decode(torch.zeros(1, pipe.vae.config.latent_channels, 2, 2, 2), None)
    assert onloaded == []  # so its weights would still be on the host


def test_what_is_not_placed_stays_on_the_device_and_components_tell_of_all():
    plan = Plan.of({"transformer": "swap"})
    assert 'components.keys() - ["transformer"]' in plan.as_code("diffusers").code
    assert "enable_model_cpu_offload" in plan.as_code("diffusers", components=["transformer"]).code
    both = plan.as_code("diffusers", components=["transformer", "vae"]).code
    assert 'components["vae"].to(device)' in both
    assert "components.keys()" not in both


@pytest.mark.parametrize("name", ["none", "cpu", "disk"])
def test_a_preset_that_describes_lightricks_is_exactly_its_command(name):
    made = preset(f"lightricks {name}", WORK).as_code("ltx-pipelines")
    assert made.differences == ()
    words = shlex.split(made.code.replace("\\\n", ""), comments=True)
    assert words[:3] == ["python", "-m", "ltx_pipelines.ti2vid_two_stages"]
    assert words[4:] == ["--offload", name, "--quantization", "fp8-cast", "--max-batch-size", "4"]


def test_a_command_line_names_every_component_and_tells_each_that_is_elsewhere():
    for plan in PLANS:
        made = plan.as_code("ltx-pipelines")
        offload = shlex.split(made.code.replace("\\\n", ""), comments=True)[5]
        streamed = {"cpu": Place.LAYERWISE, "disk": Place.DISK}.get(offload, Place.SWAP)
        for name in {component for component, _ in plan.placements}:
            assert name in made.code
            kind = streamed if name in ("text_encoder", "transformer") else Place.SWAP
            expected = differing_fields(plan.placement(name), Placement(kind=kind, until=Until.EACH))
            assert len(sentences_about(name, made.differences)) == expected + has_own_place(plan, name), made


def test_choices_that_a_tool_does_not_have_are_named():
    plan = Plan.of({"lora": "merged", "numerics.pass_batching": "batched", **NUMERICS})
    named = {tool: [each.partition(":")[0] for each in plan.as_code(tool).differences] for tool in TOOLS}
    assert named == {
        "diffusers": ["lora", "numerics.pass_batching", "numerics.weight_dtype"],
        "ltx-pipelines": ["numerics.vae_tiling", "numerics.attention"],
    }
    assert [each.partition(":")[0] for each in Plan.of().as_code("ltx-pipelines").differences] == ["lora"]


TOOLS = ("diffusers", "ltx-pipelines")


def test_an_unknown_tool_is_one_error_that_names_those_there_are():
    with pytest.raises(PlanError, match="no code for 'comfyui', only for 'diffusers' and 'ltx-pipelines'"):
        Plan.of().as_code("comfyui")


def test_code_reads_well_printed_and_in_a_notebook():
    made = Plan.of({"<vae>": swap()}).as_code("diffusers")
    assert str(made).startswith("# differs: <vae>: ")
    assert repr(made) == "Code('diffusers', 14 lines, 2 differences)"
    page = made._repr_html_()
    assert "<li>&lt;vae&gt;: " in page
    assert "<vae>" not in page
    assert "Exactly the plan." in Plan.of().as_code("diffusers")._repr_html_()


def test_a_plan_of_a_presets_name_is_no_preset():
    code = Plan.of({"transformer": swap()}, name="swap").as_code("diffusers").code
    assert 'components.keys() - ["transformer"]' in code


def test_a_preset_places_all_whatever_it_is_called():
    plan = preset("diffusers model offload", WORK)
    renamed = Plan.from_json(replace(plan, name="mine").to_json())
    assert renamed.as_code("diffusers") == plan.as_code("diffusers")
