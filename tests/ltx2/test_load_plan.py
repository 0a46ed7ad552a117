"""Loading by a plan: what it has on disk or on the device stays in files, and the host needs no more than it says."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from reslab import residency
from reslab.ltx2._checkpoint import _load
from reslab.ltx2._checkpoint._load import load
from reslab.ltx2._checkpoint._load_arguments import leaves_in_files
from reslab.ltx2._checkpoint._write import write
from reslab.ltx2._pipeline._compose import one_stage, two_stage
from reslab.residency import Plan, PlanError

REQUEST = {"prompt": "a heron over a weir", "width": 128, "height": 64, "num_frames": 9, "seed": 7}
REQUEST |= {"num_inference_steps": 2}
SWAPPED = dict.fromkeys(("vae", "audio_vae", "vocoder", "latent_upsampler"), "swap")
PLANS = {
    "others on disk": {"text_encoder": "disk", "connectors": "disk", "transformer": "layerwise"},
    "all on disk": {"text_encoder": "disk", "connectors": "disk", "transformer": {"placement": "disk", "resident": 1}},
    "kept": {"text_encoder": "swap", "transformer": {"placement": "layerwise", "resident": 1, "until": "run"}},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, tiny_ltx23):
    return write(tiny_ltx23, tmp_path_factory.mktemp("plans") / "written")


@pytest.mark.parametrize("name", PLANS)
def test_what_a_plan_has_on_disk_or_resident_stays_in_files_and_runs_with_the_same_bits(written, name):
    plan = Plan.of(SWAPPED | PLANS[name])
    checkpoint, whole = load(written, plan=plan, progress=False), load(written, progress=False)
    left = {part for part in checkpoint.modules if leaves_in_files(plan, part)}
    assert set(checkpoint.files) == left
    for part, module in checkpoint.modules.items():
        assert {weight.is_meta for weight in module.parameters()} == {part in left}
        for key, buffer in module.named_buffers():
            assert torch.equal(buffer, whole.modules[part].get_buffer(key))
            assert buffer.dtype == whole.modules[part].get_buffer(key).dtype
    assert checkpoint.left_bytes == sum(w.nbytes for part in left for w in whole.modules[part].parameters())
    assert "of it left in files" in repr(checkpoint)
    pipe = two_stage(checkpoint)
    with residency.apply(pipe, plan, files=checkpoint.files):
        mine = pipe.run(**REQUEST)
    theirs = two_stage(whole).run(**REQUEST)
    assert (mine.frames == theirs.frames).all()
    assert (mine.audio == theirs.audio).all()


def test_the_lora_stays_in_its_file_with_the_transformer_and_only_then(written):
    on_disk = load(written, plan=Plan.of({"transformer": "disk"}), progress=False)
    in_memory = load(written, plan=Plan.of({"transformer": "layerwise"}), progress=False)
    assert {tensor.is_meta for tensor in on_disk.distilled_lora.values()} == {True}
    assert {tensor.is_meta for tensor in in_memory.distilled_lora.values()} == {False}
    assert [file.name for file in on_disk.files["transformer"]][1] == "distilled_lora.safetensors"


def weight_bytes(module):
    return sum(weight.nbytes for weight in module.parameters())


def host_needs(written, name):
    """What the host holds: what waits there, and of what comes from disk the largest block."""
    parts = load(written, progress=False).components
    blocks = max(map(weight_bytes, parts["transformer"].transformer_blocks))
    outside = weight_bytes(parts["transformer"]) - 4 * blocks
    swapped = sum(weight_bytes(parts[part]) for part in SWAPPED)
    lora = sum(t.nbytes for t in load_file(written / "distilled_lora.safetensors").values())
    connectors = weight_bytes(parts["connectors"])
    return (
        swapped
        + {
            "whole": sum(weight_bytes(module) for module in parts.values() if isinstance(module, torch.nn.Module))
            - swapped
            + lora,
            "others on disk": 4 * blocks + outside + connectors + lora,
            "all on disk": max(outside, connectors),
            "kept": weight_bytes(parts["text_encoder"]) + 3 * blocks,
        }[name]
    )


@pytest.mark.parametrize("name", ["whole", *PLANS])
def test_what_the_host_has_no_room_for_is_refused_before_anything_is_read(written, name, monkeypatch):
    plan = Plan.of(SWAPPED | PLANS[name]) if name in PLANS else None
    need = host_needs(written, name)
    monkeypatch.setattr(_load, "free_host_bytes", lambda: need)
    load(written, plan=plan, progress=False)
    monkeypatch.setattr(_load, "free_host_bytes", lambda: need - 1)
    for reader in ("read_component", "read_in_files", "_read_lora"):
        monkeypatch.setattr(_load, reader, lambda *args, **kwargs: pytest.fail("something was read"))
    advice = "let the plan have more on disk" if plan else r"leave weights on disk by a plan: load\(.*"
    with pytest.raises(ValueError, match=f"Host memory does not suffice: .* {advice}. Nothing was read of"):
        load(written, plan=plan, progress=False)


def test_a_lora_with_a_scale_of_its_own_is_read_and_counted(written, tmp_path, monkeypatch):
    state = load_file(written / "distilled_lora.safetensors")
    layer = next(iter(state)).removesuffix(".lora_A.weight")
    save_file(state | {f"{layer}.alpha": torch.tensor(2.0)}, tmp_path / "scaled.safetensors")
    asked = {
        "plan": Plan.of(SWAPPED | PLANS["all on disk"]),
        "lora": tmp_path / "scaled.safetensors",
        "progress": False,
    }
    need = host_needs(written, "all on disk") + sum(tensor.nbytes for tensor in state.values())
    monkeypatch.setattr(_load, "free_host_bytes", lambda: need)
    assert {tensor.is_meta for tensor in load(written, **asked).distilled_lora.values()} == {False}
    monkeypatch.setattr(_load, "free_host_bytes", lambda: need - 1)
    with pytest.raises(ValueError, match="Host memory does not suffice"):
        load(written, **asked)


def test_one_stage_of_a_checkpoint_of_two_leaves_the_files_of_the_upsampler_alone(written):
    plan = Plan.of({"text_encoder": "disk", "transformer": "disk"})
    checkpoint, whole = load(written, plan=plan, progress=False), load(written, progress=False)
    assert "latent_upsampler" in checkpoint.files
    pipe = one_stage(checkpoint)
    with residency.apply(pipe, plan, files=checkpoint.files):
        frames = pipe.run(**REQUEST).frames
    assert (frames == one_stage(whole).run(**REQUEST).frames).all()


def test_text_encoders_whose_files_have_other_names_are_read_under_the_models(written):
    (file,) = load(written, plan=Plan.of({"text_encoder": "disk"}), progress=False).files["text_encoder"]
    assert file.names["language_model.model.norm.weight"] == "model.language_model.norm.weight"
    assert len(file.names) == len(load_file(file))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"plan": "streaming"},
            PlanError,
            r"plan is a residency\.Plan, got str; an answer of residency\.survey has one",
        ),
        ({"plan": Plan.of({"unet": "swap"})}, PlanError, "the plan places 'unet', which LTX-2 does not have"),
        ({"plan": Plan.of(), "device": "cpu"}, ValueError, "leave out device, or plan"),
        (
            {"plan": Plan.of({"vae": "swap"}), "dtype": torch.bfloat16},
            ValueError,
            "stored as F32, and what a plan leaves on disk keeps its type",
        ),
    ],
)
def test_plans_that_cannot_be_loaded_by_are_refused_in_one_sentence(written, arguments, error, message):
    with pytest.raises(error, match=message):
        load(written, progress=False, **arguments)
    with pytest.raises(ValueError, match=r"builds everything in memory: leave out .* plan"):
        load("tiny", plan=Plan.of())


def test_a_missing_weight_is_named_when_it_would_stay_in_its_file(written, tmp_path):
    folder = tmp_path / "copy"
    write(load(written, progress=False), folder)
    for part, key, message in (
        ("transformer", "proj_in.bias", "1 missing keys: proj_in.bias"),
        ("text_encoder", "language_model.model.norm.weight", "1 missing keys: model.language_model.norm.weight"),
    ):
        file = next((folder / part).glob("*.safetensors"))
        state = load_file(file)
        state.pop(key)
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load(folder, plan=Plan.of({part: "disk"} | dict.fromkeys(SWAPPED, "swap")), progress=False)


#: Loads by a plan, or whole, under a limit, and makes a video; says what private memory that took at most.
PROGRAM = """
import json, resource, sys, threading, time
import torch
from reslab import ltx2, residency

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
def anonymous():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

def data():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))

def run(checkpoint, plan, **known):
    pipe = ltx2.two_stage(checkpoint)
    with residency.apply(pipe, plan, device="cpu", files=checkpoint.files, **known):
        pipe.run(**given["request"])

def watch():
    while not done:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.02)  # reading what is anonymous walks all of the process's memory

plan = residency.Plan.from_json(given["plan"])
run(ltx2.load("tiny", variant="LTX-2.3"), residency.Plan.of({"transformer": "disk", "text_encoder": "swap"}))
base, done = anonymous(), []
peak = [base]
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
resource.setrlimit(resource.RLIMIT_DATA, (data() + given["limit"],) * 2)
checkpoint = ltx2.load(given["folder"], plan=plan if given["by_plan"] else None, progress=False)
loaded = anonymous() - base
rehearsal = residency.Rehearsal.load(given["rehearsal"])
run(checkpoint, plan, known=residency.workload(rehearsal, plan))
done.append(True)
watcher.join()
print(json.dumps({"loaded": loaded, "peak": peak[0] - base}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux tells it, and limits it as Linux does")
def test_under_a_limit_that_the_whole_breaks_a_plan_is_loaded_and_run_within_what_it_says(tmp_path):
    whole = load("mid", variant="LTX-2.3")
    folder = write(whole, tmp_path / "mid")
    request = REQUEST | {"max_sequence_length": 128}
    rehearsal = residency.rehearse(two_stage(whole), **request)
    rehearsal.save(tmp_path / "mid.parquet")
    card = residency.device("small", like="RTX 4090", free="160 MiB", host_memory="200 MiB")
    answer = residency.survey(rehearsal, card)
    assert (answer.fits, answer.plan.name) == (True, "streaming from disk")
    memory = answer.bounds.memory
    planned = memory.pinned_bytes + memory.pageable_bytes + memory.peak_bytes
    assert planned * 1.1 < whole.weight_bytes * 0.8

    def child(*, by_plan):
        given = {"folder": str(folder), "rehearsal": str(tmp_path / "mid.parquet"), "request": request}
        given |= {"plan": answer.plan.to_json(), "limit": round(whole.weight_bytes * 0.9), "by_plan": by_plan}
        # glibc would raise the size from which it gives memory back to 32 MiB, and keep what lies between
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(given)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)

    broken = child(by_plan=False)
    assert broken.returncode != 0
    assert "memory" in broken.stderr.casefold()
    within = child(by_plan=True)
    assert within.returncode == 0, within.stderr[-2000:]
    measured = json.loads(within.stdout.splitlines()[-1])
    assert measured["loaded"] <= memory.pinned_bytes * 1.1
    assert measured["peak"] <= planned * 1.1
