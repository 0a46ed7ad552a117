"""`detect` on machines that are not here: what is free, who holds the rest, what is allowed and can be pinned."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from reslab.residency import Confidence, DeviceError, Holder, Machine, Plan, bounds, detect, device, this_machine
from reslab.residency._device._machine import host_memory

GIB = 2**30


def machine(torch=None, files=None, driver=lambda arguments: None, total=64 * GIB, available=48 * GIB, **facts):
    facts = {"system": "Linux", "release": "6.8.0-generic", "cpus": 8} | facts
    return Machine(torch=torch, read=(files or {}).get, driver=driver, memory=lambda: (total, available), **facts)


def torch_with(*cards, mps=False, xpus=(), other=None):
    """A torch that sees these cards: name, total, free, and what this process holds."""

    def properties(index):
        name, _, _, _ = cards[index]
        return SimpleNamespace(name=name, is_integrated="GB10" in name, uuid=f"uuid-{index}")

    intel = SimpleNamespace(
        is_available=lambda: bool(xpus),
        device_count=lambda: len(xpus),
        get_device_properties=lambda index: SimpleNamespace(name=xpus[index][0], total_memory=xpus[index][1]),
        mem_get_info=lambda index: (xpus[index][2], xpus[index][1]),
        memory_reserved=lambda index: xpus[index][3],
    )
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: bool(cards),
            device_count=lambda: len(cards),
            get_device_properties=properties,
            mem_get_info=lambda index: (cards[index][2], cards[index][1]),
            memory_reserved=lambda index: cards[index][3],
        ),
        xpu=intel,
        accelerator=SimpleNamespace(
            is_available=lambda: other is not None, current_accelerator=lambda: SimpleNamespace(type=other)
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        mps=SimpleNamespace(recommended_max_memory=lambda: 24 * GIB, driver_allocated_memory=lambda: GIB),
    )


H200 = ("NVIDIA H200", round(139.8 * GIB), 100 * GIB, 8 * GIB)


def test_memory_is_what_the_driver_says_and_rates_come_from_the_catalogue():
    spec = detect(machine=machine(torch_with(H200)))
    assert (spec.name, spec.kind, spec.free_bytes) == ("NVIDIA H200", "cuda", 100 * GIB)
    assert spec.matrix_flops_per_s["bfloat16"] == 790 * 10**12
    assert spec.evidence["free_bytes"].confidence is Confidence.DETECTED
    assert (spec.host_memory_bytes, spec.pinnable_bytes) == (48 * GIB - round(4.8 * GIB), 48 * GIB)


def test_who_holds_the_rest_is_said_as_far_as_the_driver_tells():
    asked = []

    def driver(arguments):
        asked.append(arguments)
        return "4711, /usr/bin/python3, 20480\n4712, [Not Found], [N/A]\n"

    spec = detect(machine=machine(torch_with(H200), driver=driver))
    assert asked[0][0] == "--id=GPU-uuid-0"
    assert [(holder.who, round(holder.nbytes / GIB, 1)) for holder in spec.holders] == [
        ("torch in this process", 8.0),
        ("/usr/bin/python3 (process 4711)", 20.0),
        ("the driver, and processes that it does not name", 11.8),
    ]
    assert sum(holder.nbytes for holder in spec.holders) == spec.memory_bytes - spec.free_bytes


def test_a_driver_that_tells_nothing_leaves_one_holder():
    holders = detect(machine=machine(torch_with(("NVIDIA L4", 22 * GIB, 21 * GIB, 0)))).holders
    assert holders == (Holder(who="the driver, and processes that it does not name", nbytes=GIB),)


def test_another_device_than_the_first_is_that_device():
    torch = torch_with(("Tesla T4", 15 * GIB, 14 * GIB, 0), H200)
    assert detect("cuda:1", machine=machine(torch)).name == "NVIDIA H200"
    assert detect(machine=machine(torch)).name == "Tesla T4"


@pytest.mark.parametrize("name", ["cuda:2", "mps", "cuda:x", "tpu"])
def test_a_device_that_is_not_here_is_one_error(name):
    torch = torch_with(("Tesla T4", 15 * GIB, 14 * GIB, 0), H200)
    with pytest.raises(DeviceError, match=rf"no device '{name}' here; this machine has the CPU and cuda:0 to cuda:1"):
        detect(name, machine=machine(torch))


def test_without_an_accelerator_asking_for_one_says_so():
    for torch in (None, torch_with()):
        with pytest.raises(DeviceError, match="has the CPU and no accelerator that torch sees"):
            detect("cuda", machine=machine(torch))


def test_only_a_name_with_mig_is_a_slice():
    slice_of = torch_with(("NVIDIA H200 MIG 2g.35gb", 35 * GIB, 34 * GIB, 0))
    spec = detect(machine=machine(slice_of))
    assert spec.matrix_flops_per_s["bfloat16"] == round(790e12 * 2 / 7)
    assert spec.memory_bytes_per_s == pytest.approx(4.8e12 * 35 / 139.8, rel=1e-3)
    assert "the slice's share of the compute" in spec.evidence["matrix_flops_per_s.bfloat16"].source
    assert spec.link_bytes_per_s == 55_400_000_000
    whole = detect(machine=machine(torch_with(("NVIDIA H200", 70 * GIB, 69 * GIB, 0))))
    assert (whole.memory_bytes, whole.matrix_flops_per_s["bfloat16"]) == (70 * GIB, 790 * 10**12)


def test_an_8_gib_card_whose_sister_has_16_is_no_slice():
    spec = detect(machine=machine(torch_with(("NVIDIA GeForce RTX 4060 Ti", round(7.75 * GIB), 7 * GIB, 0))))
    assert (spec.memory_bytes_per_s, spec.memory_bytes) == (288 * 10**9, round(7.75 * GIB))
    assert spec.matrix_flops_per_s["bfloat16"] == pytest.approx(44.1e12, rel=2e-3)


def test_one_name_with_two_memories_is_told_apart_by_memory():
    for total, bandwidth in ((9.8, 760.3), (11.8, 912.4)):
        spec = detect(machine=machine(torch_with(("NVIDIA GeForce RTX 3080", round(total * GIB), GIB, 0))))
        assert spec.memory_bytes_per_s / 1e9 == bandwidth
    laptop = detect(machine=machine(torch_with(("NVIDIA GeForce RTX 4060 Laptop GPU", 8 * GIB, 7 * GIB, 0))))
    assert laptop.memory_bytes_per_s == 256 * 10**9


def test_a_slice_that_the_catalogue_knows_has_its_own_figures():
    spec = detect(machine=machine(torch_with(("NVIDIA H200 MIG 3g.71gb", round(69.8 * GIB), 69 * GIB, 0))))
    assert spec.matrix_flops_per_s["bfloat16"] == 359 * 10**12


def test_a_card_that_the_catalogue_does_not_know_has_its_memory_and_says_what_to_give():
    here = machine(torch_with(("NVIDIA Quadro GV100", 31 * GIB, 30 * GIB, 0)))
    spec = detect(machine=here)
    assert (spec.name, spec.memory_bytes, spec.free_bytes) == ("NVIDIA Quadro GV100", 31 * GIB, 30 * GIB)
    assert (spec.memory_bytes_per_s, spec.matrix_flops_per_s) == (None, {})
    assert spec.host_memory_bytes == 48 * GIB - round(4.8 * GIB)  # what is available, less a tenth
    assert spec.missing.startswith(
        "no throughput of NVIDIA Quadro GV100 and no memory bandwidth of NVIDIA Quadro GV100 is known; give "
        "compute='44 TFLOP/s' and bandwidth='288 GB/s' with its own figures"
    )
    assert spec.evidence["memory_bytes_per_s"].confidence is Confidence.UNKNOWN
    given = detect(machine=here, compute="118 TFLOP/s", bandwidth="868 GB/s")
    assert (given.matrix_flops_per_s["float16"], given.memory_bytes_per_s, given.missing) == (118e12, 868e9, "")
    assert given.evidence["matrix_flops_per_s.float16"].confidence is Confidence.GIVEN


def test_what_is_borrowed_on_detecting_is_assumed():
    spec = detect(like="L40S", machine=machine(torch_with(("NVIDIA Quadro GV100", 31 * GIB, 30 * GIB, 0))))
    assert spec.memory_bytes == 31 * GIB
    borrowed = {each.confidence for name, each in spec.evidence.items() if name.partition(".")[2] or "link" in name}
    assert borrowed == {Confidence.ASSUMED}
    assert spec.evidence["memory_bytes_per_s"].source.startswith("taken from L40S")
    with pytest.raises(DeviceError, match="no device 'L40Z' to take figures from; did you mean 'L40' or 'L40S'"):
        detect(like="L40Z", machine=machine(torch_with(H200)))


def test_an_xpu_is_never_described_as_the_cpu():
    arc = ("Intel(R) Arc(TM) Pro B60 Graphics", 23 * GIB, 20 * GIB, GIB)
    spec = detect(machine=machine(torch_with(xpus=[arc])))
    assert (spec.kind, spec.name, spec.memory_bytes, spec.free_bytes) == ("xpu", arc[0], 23 * GIB, 20 * GIB)
    assert (spec.memory_bytes_per_s, spec.unified) == (456 * 10**9, False)
    assert spec.holders[0] == Holder(who="torch in this process", nbytes=GIB)
    both = machine(torch_with(H200, xpus=[arc, arc]))
    assert (detect(machine=both).kind, detect("xpu:1", machine=both).kind) == ("cuda", "xpu")
    with pytest.raises(DeviceError, match="has the CPU and cuda:0 to cuda:0 and xpu:0 to xpu:1"):
        detect("xpu:2", machine=both)


def test_an_xpu_of_an_older_torch_has_what_it_does_not_reserve():
    torch = torch_with(xpus=[("Intel(R) Arc(TM) B580 Graphics", 12 * GIB, None, GIB)])
    del torch.xpu.mem_get_info
    assert detect(machine=machine(torch)).free_bytes == 11 * GIB


def test_an_accelerator_of_another_kind_is_named_and_not_passed_over():
    here = machine(torch_with(other="npu"))
    with pytest.raises(DeviceError, match="torch sees an accelerator of the kind 'npu', which detect cannot read"):
        detect(machine=here)
    assert detect("cpu", machine=here).kind == "cpu"


@pytest.mark.parametrize(
    ("name", "card", "bandwidth"),
    [("AMD Radeon RX 7900 XTX", "RX 7900 XTX", 960), ("AMD Instinct MI300X", "MI300X", 5300)],
)
def test_amds_cards_are_cuda_to_torch_and_found_by_name(name, card, bandwidth):
    total = device(card).memory_bytes
    spec = detect(machine=machine(torch_with((name, total, total - GIB, 0))))
    assert (spec.kind, spec.name, spec.memory_bytes_per_s) == ("cuda", name, bandwidth * 10**9)


def test_an_apple_gpu_is_found_by_its_chip():
    spec = detect(machine=machine(torch_with(mps=True), chip=lambda: "Apple M4 Max"))
    assert (spec.kind, spec.name, spec.unified) == ("mps", "Apple M4 Max", True)
    assert (spec.memory_bytes, spec.memory_bytes_per_s) == (24 * GIB, 546 * 10**9)
    unknown = detect(machine=machine(torch_with(mps=True)))
    assert (unknown.name, unknown.memory_bytes, unknown.unified) == ("Apple GPU", 24 * GIB, True)
    assert unknown.missing


def test_with_unified_memory_there_is_nothing_to_move():
    assert detect(like="RTX 5070 Ti", machine=machine(torch_with(("NVIDIA GB10", 119 * GIB, 100 * GIB, 0)))).unified
    apple = detect(like="RTX 3060", machine=machine(torch_with(mps=True)))
    assert (apple.kind, apple.unified, apple.free_bytes) == ("mps", True, 23 * GIB)
    assert not detect(machine=machine(torch_with(H200))).unified


def test_without_torch_or_gpu_the_device_is_the_cpu():
    spec = detect(machine=machine())
    assert (spec.kind, spec.unified, spec.memory_bytes, spec.free_bytes) == ("cpu", True, 64 * GIB, 48 * GIB)
    assert spec.matrix_flops_per_s["float32"] == 8 * 80 * 10**9
    assert spec.evidence["matrix_flops_per_s.float32"].confidence is Confidence.ASSUMED


def test_a_link_that_is_given_makes_moving_cost_something():
    spec = detect(link="1 GB/s", machine=machine())
    assert (spec.link_bytes_per_s, spec.link_pageable_bytes_per_s, spec.unified) == (10**9, 10**9, False)


V2 = {
    "/proc/self/cgroup": "0::/pod/box\n",
    "/sys/fs/cgroup/pod/box/memory.max": "max\n",
    "/sys/fs/cgroup/pod/memory.max": f"{16 * GIB}\n",
    "/sys/fs/cgroup/pod/memory.current": f"{6 * GIB}\n",
    "/sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
}
V1 = {
    "/proc/self/cgroup": "12:cpu,cpuacct:/box\n4:memory:/box\n",
    "/sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{16 * GIB}\n",
    "/sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{6 * GIB}\n",
    "/sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {2 * GIB}\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_a_containers_limit_counts_without_its_file_cache(files):
    spec = detect(machine=machine(files=files))
    assert (spec.memory_bytes, spec.free_bytes) == (16 * GIB, 12 * GIB)
    assert spec.evidence["memory_bytes"].source == "the container's control group"


def test_what_can_be_pinned_depends_on_the_system():
    cards = torch_with(H200)
    assert detect(machine=machine(cards, release="5.15.0-microsoft-standard-WSL2")).pinnable_bytes == GIB
    assert detect(machine=machine(cards, system="Windows", release="11")).pinnable_bytes == 32 * GIB
    assert detect(machine=machine(cards, files=V2)).pinnable_bytes == 12 * GIB


def test_what_is_available_of_the_host_counts_and_not_what_there_is():
    """What a process on 64 GiB with 6 available may use is nine tenths of the 6."""
    for torch in (torch_with(H200), None):
        here = detect(machine=machine(torch, available=6 * GIB))
        assert here.host_memory_bytes == 6 * GIB - round(0.6 * GIB)
        assert "available now, less a tenth" in here.evidence["host_memory_bytes"].source
    here = detect(machine=machine(torch_with(H200), files=V2))  # 12 GiB are left of the container's 16
    assert here.host_memory_bytes == 12 * GIB - round(1.2 * GIB)


def test_a_survey_counts_on_what_is_available_of_the_host():
    from reslab import ltx2

    run = ltx2.rehearsal("LTX-2.3 distilled", width=768, height=512, num_frames=25)
    card = torch_with(H200)
    plan = Plan.of({"transformer": "layerwise", "text_encoder": "layerwise"})
    assert bounds(run, plan, detect(machine=machine(card))).memory.host_bytes == 48 * GIB - round(4.8 * GIB)
    assert not bounds(run, plan, detect(machine=machine(card, available=6 * GIB))).memory.fits_host


def test_loaded_weights_that_copies_take_the_place_of_can_be_pinned():
    held = host_memory(machine(available=10 * GIB), held_bytes=30 * GIB)
    assert (held.usable_bytes, held.pinnable_bytes) == (9 * GIB, 40 * GIB)


def test_this_machine_can_be_described():
    spec = detect("cpu", machine=replace(this_machine(), torch=None))
    assert 0 < spec.free_bytes <= spec.memory_bytes


def test_nothing_of_it_needs_torch():
    blocked = ("torch", "diffusers", "transformers")
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
    code = block + "from reslab import residency as r; print(r.detect().kind, r.device('H200').name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cpu", "H200"], done.stderr
