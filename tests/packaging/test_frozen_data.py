"""Frozen data is data: every frozen dataclass of the packages is pickled, copied, compared and hashed as a value.

The classes are found by walking the packages, so a new one fails here until it has an example in `EXAMPLES`, or a
reason in `LIVE` why it is no data.
"""

import copy
import dataclasses
import importlib
import json
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reslab import ltx2, profiler, residency, stages
from reslab.ltx2 import _choices
from reslab.ltx2 import _variants as ltx2_variants
from reslab.ltx2._checkpoint import _checkpoint_folder, _download_plan, _fetch, _read_component, _small_configs
from reslab.ltx2._modes import _device_modes
from reslab.ltx2._pipeline import _composition_settings, _limits
from reslab.profiler import teaching
from reslab.profiler._report import _figure
from reslab.residency import _units
from reslab.residency._device import _machine
from reslab.residency._engine import _checks
from reslab.residency._plan import _code, _workload
from reslab.residency._plan import _settings as plan_settings
from reslab.residency._rehearse import _schema, _structure
from reslab.residency._schedule import _footprint
from reslab.stages.support import FrozenDict, freeze

#: Frozen, but no data: why each has no example.
LIVE = {
    "stages.Binding": "holds the pipeline that it binds a stage to",
    "residency.Machine": "doors to one machine: functions, and the torch module",
    "residency.EngineConfig": "how a residency in force is carried out: its link measures and waits",
    "residency.Recipe": "holds the function that places components",
    "residency.TracedCall": "what a rehearsal in the making collects; its segments grow",
    "ltx2.Checkpoint": "holds models, which are compared by identity and copied by their own rules",
    "ltx2.Blank": "as a checkpoint",
    "ltx2.Trial": "holds a checkpoint",
    "ltx2.LoraFile": "holds a state dictionary on the meta device",
}


def rehearsal():
    frames = {name: pl.DataFrame(schema=dict(schema)) for name, schema in _schema.SCHEMAS.items()}
    glue = {"stage": "denoise", "registered_name": "denoise", "peak_bytes": 7}
    rows = [{name: glue.get(name, 0) for name in _schema.SCHEMAS["glue"]}]
    frames["glue"] = pl.DataFrame(rows, schema=dict(_schema.SCHEMAS["glue"]))
    return residency.Rehearsal(**frames, meta={"pipeline": "toy", "request": {"width": 64}})


def profile():
    spans = profiler.spans_frame(span=[0], kind=["run"], name=["lab"], run=[0], start_ns=[0], host_ns=[9])
    return profiler.Profile(spans=spans, meta={"device": "cpu"})


def workload():
    sizes = {"transformer": residency.ComponentSize(outside_bytes=1, block_bytes=(2, 3))}
    calls = (residency.Call(stage="denoise", component="transformer", blocks=(0, 1)),)
    return residency.Workload(components=sizes, stages=("denoise",), calls=calls, activations={"denoise": 5})


def plan():
    made = residency.Plan.of({"transformer": {"placement": "layerwise", "resident": 1}}, name="mine")
    assert made.placements  # what is remembered of it travels too
    return made


def limits():
    return residency.bounds(rehearsal(), residency.Plan.of(), residency.device("RTX 4090"))


def answers():
    return residency.survey(rehearsal(), "RTX 4090")


def figure():
    return profiler.Figure(spec={"mark": "bar", "data": {"values": [{"a": 1}]}}, caption="One bar.")


def signature():
    reads = {"x": stages.REQUIRED, "y": 2}
    return stages.Signature(components=("vae",), reads=reads, writes=("z",))


def video():
    frames, audio = np.zeros((9, 4, 6, 3), np.uint8), np.ones((20, 2), np.float32)
    return ltx2.Video(frames=frames, audio=audio, frame_rate=24.0, sample_rate=48_000)


def mode_run():
    sizes = {"moved_bytes": 1, "stays_bytes": 2, "peak_bytes": 3, "host_bytes": 4}
    return ltx2.ModeRun(mode="m", plan=plan(), profile=profile(), result=video(), link_bytes_per_s=1e9, **sizes)


def download():
    file = _download_plan.FetchedFile(repo="a/b", commit="c", path="d", nbytes=5, cached=False)
    sizes = {"free_disk_bytes": 1, "host_memory_bytes": 2, "free_host_bytes": 3}
    return ltx2.DownloadPlan(source="a/b", commit="c", variant="LTX-2.3", files=(file,), **sizes)


def checkpoint_folder():
    return _checkpoint_folder.CheckpointFolder(
        root=Path("r"), parts={"vae": Path("r/vae")}, lora=None, mark={"untrained": True}
    )


def comparison():
    rows = pl.DataFrame({"stage": ["denoise"], "change": ["same"]})
    return profiler.Comparison(stages=rows, runs=rows, remarks=("one",))


EXAMPLES = {
    stages.Signature: signature,
    profiler.Comparison: comparison,
    profiler.Profile: profile,
    profiler.Figure: figure,
    _figure.Style: lambda: _figure.Style(ink="#000", background="white", font_px=11),
    teaching.Asked: lambda: teaching.Asked(unit="GiB", to=0.1, rounded=(204.0,)),
    teaching.Hints: lambda: teaching.Hints(traps={33: "one pass a step?"}, section="section 4"),
    teaching.Verdict: lambda: teaching.Verdict(right=True, says="123.", figure=figure()),
    residency.Bounds: limits,
    residency.Answer: lambda: answers()[0],
    residency.Survey: lambda: answers(),
    residency.Advice: lambda: residency.Advice(frame=pl.DataFrame({"change": ["link ×2"]}), says="Link ×2 helps."),
    residency.KeyedFile: lambda: residency.KeyedFile("a.safetensors", {"key": "name"}),
    residency.MemoryBounds: lambda: limits().memory,
    residency.StageBounds: lambda: limits().rows[0],
    residency.DeviceSpec: lambda: residency.device("RTX 4090"),
    residency.Evidence: lambda: residency.device("RTX 4090").evidence["memory_bytes"],
    residency.Holder: lambda: residency.Holder(who="me", nbytes=1),
    residency.LinkSpeed: lambda: residency.LinkSpeed(
        device="cuda:0", pinned_bytes_per_s=3, pageable_bytes_per_s=1, back_bytes_per_s=2, nbytes=4, repeats=5
    ),
    _machine.HostMemory: lambda: _machine.HostMemory(
        **dict.fromkeys(map(_name, dataclasses.fields(_machine.HostMemory)), 1)
    ),
    residency.Budget: lambda: _checks.Budget(device_bytes=1),
    _code.Code: lambda: plan().as_code("diffusers", components=["transformer"]),
    _code.Wanted: lambda: _code.Wanted(
        places={"vae": residency.swap()},
        alone={("vae", "decode"): residency.resident()},
        lora=residency.Lora.MERGED,
        numerics=residency.Numerics(),
        are_all=True,
        device="cuda",
    ),
    residency.Decision: lambda: next(iter(plan().decisions.values())),
    residency.HostBytes: lambda: residency.footprint(plan(), workload()).host(),
    residency.Footprint: lambda: residency.footprint(plan(), workload()),
    _footprint.Waiting: lambda: residency.footprint(plan(), workload()).waiting["transformer"],
    residency.Schedule: lambda: residency.schedule(plan(), workload()),
    residency.Numerics: lambda: residency.Numerics(),
    residency.Placement: lambda: residency.layerwise(resident=3),
    residency.Plan: plan,
    _units.LinkRatio: lambda: _units.LinkRatio(copy_s_per_compute_s=0.5),
    plan_settings.UserSetting: lambda: next(iter(residency.user_settings(vae="swap").items.values())),
    residency.Settings: lambda: residency.user_settings(vae="swap", transformer={"prefetch": 2}),
    residency.ComponentSize: lambda: _workload.ComponentSize(outside_bytes=1, block_bytes=(2,)),
    residency.Call: lambda: workload().calls[0],
    residency.Workload: workload,
    residency.Rehearsal: rehearsal,
    _structure.TensorForm: lambda: _structure.TensorForm(-1, torch.Size((2, 3)), (3, 1), 0, torch.float32),
    _download_plan.FetchedFile: lambda: download().files[0],
    ltx2.DownloadPlan: download,
    _fetch.FetchedCheckpoint: lambda: _fetch.FetchedCheckpoint(folder=checkpoint_folder(), commit="c"),
    _checkpoint_folder.CheckpointFolder: checkpoint_folder,
    _device_modes.ModeCase: lambda: _device_modes.ModeCase(
        rehearsal=rehearsal(), device=residency.device("T4"), settings=residency.user_settings()
    ),
    ltx2.ModeRun: mode_run,
    ltx2.ModeRuns: lambda: ltx2.ModeRuns(runs=(mode_run(),), free_bytes=7),
    ltx2.Fit: lambda: ltx2.Fit(fits=True, why="it does", needed_bytes=1, free_bytes=2),
    _read_component.LoadRequest: lambda: _read_component.LoadRequest(
        variant=None,
        dtype=torch.bfloat16,
        device=None,
        latent_upsampler=None,
        lora=Path("l"),
        two_stage=True,
        progress=False,
    ),
    ltx2.ReferenceDecision: lambda: ltx2.reference_decision("LTX-2.3", residency.device("H100")),
    _limits.Limits: lambda: _limits.Limits(
        variant=ltx2_variants.variant("LTX-2.3"),
        stages="two",
        registers=128,
        positions=4096,
        depth=48,
        least=_limits.LeastSize(64, 64, 1, "one latent"),
        upsampler_channels=32,
        stg_blocks=(28,),
    ),
    _composition_settings.CompositionSettings: lambda: _composition_settings.CompositionSettings(
        variant="LTX-2.3",
        stages=_choices.StageCount.TWO,
        video_guidance=ltx2.Guidance(),
        audio_guidance=ltx2.Guidance(),
        sigma_schedule=_choices.SigmaSchedule.DIFFUSERS,
        decode_audio=_choices.DecodeAudio.STAGE_1,
        tiling=_choices.DecodeTiling.AUTO,
    ),
    _small_configs.SmallWidths: lambda: _small_configs.SmallWidths(
        **dict.fromkeys(map(_name, dataclasses.fields(_small_configs.SmallWidths)), 2)
    ),
    ltx2.Guidance: lambda: ltx2.Guidance(),
    ltx2_variants.HubFile: lambda: ltx2_variants.HubFile(repo="a/b", path="c"),
    ltx2.Variant: lambda: ltx2_variants.variant("LTX-2.3"),
    ltx2.Video: video,
}


def _name(field):
    return field.name


def frozen_classes():
    """Yield every frozen dataclass of the four packages, whatever file it is in."""
    for package in (stages, profiler, residency, ltx2):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for name, each in vars(module).items():
                ours = isinstance(each, type) and each.__module__ == module.__name__ and not name.startswith("_")
                if ours and dataclasses.is_dataclass(each) and each.__dataclass_params__.frozen:
                    yield each


def short(each):
    return f"{each.__module__.split('.')[1]}.{each.__name__}"


def is_live(each):
    _, package, *_, file = each.__module__.split(".")
    return short(each) in LIVE or f"{package}.{file}.{each.__name__}" in LIVE


DATA = sorted(
    {each for each in frozen_classes() if not is_live(each)}, key=lambda each: (each.__module__, each.__name__)
)


def test_every_frozen_class_has_an_example_or_a_reason():
    assert {short(each) for each in DATA if each not in EXAMPLES} == set()
    assert set(EXAMPLES) == set(DATA)


@pytest.mark.parametrize("each", DATA, ids=short)
def test_frozen_data_is_a_value(each):
    one, other = EXAMPLES[each](), EXAMPLES[each]()
    copies = [pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one), other]
    for made in copies:
        assert type(made) is type(one)
        assert (made == one) is True
        assert (made != one) is False
        if each.__hash__ is not None:
            assert hash(made) == hash(one)
    for stranger in (None, 3, "x", object(), [], pl.DataFrame(), np.zeros(2)):
        assert (one.__eq__(stranger) in (False, NotImplemented)) is True
    assert dataclasses.asdict(one).keys() == {field.name for field in dataclasses.fields(one)}


@pytest.mark.parametrize("each", DATA, ids=short)
def test_no_field_of_frozen_data_can_be_changed_in_place(each):
    one = EXAMPLES[each]()
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if type(value) is FrozenDict:
            with pytest.raises(TypeError, match="this mapping is frozen"):
                value["x"] = 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, value)


def test_data_that_differs_is_unequal_and_never_raises():
    limits_of = [residency.bounds(rehearsal(), residency.Plan.of(), residency.device(name)) for name in ("T4", "L4")]
    assert limits_of[0] != limits_of[1]
    one, other = rehearsal(), dataclasses.replace(rehearsal(), glue=rehearsal().glue.clear())
    assert one != other
    card = residency.device("T4")
    empty = residency.Plan.of()
    assert residency.bounds(one, empty, card) == residency.bounds(rehearsal(), empty, card)
    first = video()
    for changes in ({"frames": first.frames + 1}, {"audio": first.audio[:3]}, {"frame_rate": 25.0}):
        assert first != dataclasses.replace(first, **changes)
    results = [{"x": torch.ones(2)}, {"x": torch.zeros(2)}, {"x": [torch.ones(2)]}, torch.ones(2), None]
    runs = [dataclasses.replace(mode_run(), result=result) for result in results]
    assert [run == runs[0] for run in runs] == [True, False, False, False, False]
    assert runs[0] == dataclasses.replace(mode_run(), result={"x": torch.ones(2)})


def test_a_process_pool_takes_plans_cards_and_bounds():
    sent = [plan(), residency.device("RTX 4090"), limits()]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(copy.copy, sent)) == sent


def test_a_device_is_written_as_json():
    card = dataclasses.asdict(residency.device("RTX 4090"))
    assert json.loads(json.dumps(card))["matrix_flops_per_s"]["bfloat16"] == 165 * 10**12


WORDS = st.text(max_size=3)


def grown(inner):
    return st.lists(inner, max_size=3).map(tuple) | st.dictionaries(WORDS, inner, max_size=3).map(FrozenDict)


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | WORDS, grown, max_leaves=8)


@given(st.dictionaries(WORDS | st.integers(), VALUES))
def test_a_frozen_dict_is_a_dict_that_stays(content):
    frozen = FrozenDict(content)
    assert frozen == content
    assert repr(frozen) == repr(content)
    for made in (pickle.loads(pickle.dumps(frozen)), copy.deepcopy(frozen), FrozenDict(reversed(content.items()))):
        assert type(made) is FrozenDict
        assert made == frozen
        assert hash(made) == hash(frozen)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(a=2),
        lambda it: it.clear(),
        lambda it: it.pop("a"),
        lambda it: it.popitem(),
        lambda it: it.setdefault("b", 3),
        lambda it: it.__delitem__("a"),
        lambda it: it.__ior__({"b": 1}),
    ],
)
def test_every_way_to_change_a_frozen_dict_is_refused(change):
    frozen = FrozenDict(a=1)
    with pytest.raises(TypeError, match="this mapping is frozen"):
        change(frozen)
    assert frozen == {"a": 1}


def test_freezing_leaves_other_fields_and_the_callers_dict_alone():
    @dataclasses.dataclass(frozen=True)
    class Pair:
        one: dict
        two: list

        def __post_init__(self):
            freeze(self)

    own = {"a": 1}
    pair = Pair(own, [2])
    own["b"] = 2
    assert (pair.one, pair.two) == ({"a": 1}, [2])
