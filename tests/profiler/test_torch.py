"""What is asked of torch, on a stand-in for it: no machine of the tests has an accelerator."""

import sys
from types import SimpleNamespace

import pytest

from reslab.profiler import Profiler
from reslab.profiler._record import _torch
from reslab.profiler.testing import FakeClock, SimulatedDevice

DEVICE = SimpleNamespace(type="cuda", index=0)


class Torch:
    """The part of torch that is used, over a simulated device: streams are its lanes, times float milliseconds."""

    __version__ = "2.13"

    def __init__(self, clock):
        self.simulated = SimulatedDevice(clock)
        self.stats = {
            "allocated_bytes": {"all": {"current": 10, "peak": 90}},
            "reserved_bytes": {"all": {"current": 100, "peak": 200}},
        }
        self.accelerator = SimpleNamespace(
            is_available=lambda: True,
            current_accelerator=lambda: DEVICE,
            current_device_index=lambda: 0,
            current_stream=lambda _: SimpleNamespace(stream_id=self.simulated.record().lane),
            synchronize=lambda _: self.simulated.synchronize(),
        )
        self._C = SimpleNamespace(
            _accelerator_isAllocatorInitialized=lambda: True,
            _accelerator_getDeviceStats=lambda _: self.stats,
            _accelerator_resetPeakStats=lambda _: self.forget_peaks(),
        )

    def device(self, kind, index):
        return DEVICE

    def forget_peaks(self):
        self.stats = {
            name: {"all": {**stat["all"], "peak": stat["all"]["current"]}} for name, stat in self.stats.items()
        }

    def get_device_module(self, device):
        return SimpleNamespace(get_device_name=lambda _: "Simulated 4090", mem_get_info=lambda _: (7, 24))

    def Event(self, *, device, enable_timing):
        assert enable_timing
        event = SimpleNamespace()
        event.record = lambda: setattr(event, "point", self.simulated.record())
        event.elapsed_time = lambda other: self.simulated.elapsed_ns(event.point, other.point) / 1e6
        return event


@pytest.fixture
def torch(clock, monkeypatch):
    stand_in = Torch(clock)
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    return stand_in


def test_events_time_each_lane_by_the_stream_that_they_were_recorded_on(torch, clock):
    timer, readers = _torch.accelerator()
    with Profiler(clock=clock, memory=readers, device=timer) as prof:
        prof.begin("run", "lab")
        with torch.simulated.lane("copy"):
            prof.begin("transfer", "vae", -1, 8)
            torch.simulated.launch(3_000_000)
            prof.end()
        torch.simulated.launch(2_000_000)
        prof.end()
    assert prof.profile.spans.select("kind", "lane", "device_ns", "allocated_peak_bytes").rows() == [
        ("run", "host", 2_000_000, 10),
        ("transfer", "copy", 3_000_000, None),
    ]
    assert prof.profile.memory.select("pool", "allocated_bytes", "peak_bytes").rows() == [
        ("device", 10, 90),
        ("device reserved", 100, 200),
        ("device", 10, 10),
        ("device reserved", 100, 100),
    ]


def test_before_anything_was_allocated_nothing_is(torch):
    torch._C._accelerator_isAllocatorInitialized = lambda: False
    _, readers = _torch.accelerator()
    assert [reader.read() for reader in readers] == [(0, 0), (0, 0)]


def test_the_accelerator_is_found_by_itself_but_not_for_a_clock_of_ones_own(torch):
    assert Profiler(memory=None)._device.name == "Simulated 4090"
    assert Profiler(memory=None)._device.memory_bytes == 24
    assert [reader.pool for reader in Profiler(device=None)._memory][:2] == ["device", "device reserved"]
    assert Profiler(clock=FakeClock())._device is None
    assert Profiler(memory=None, device=None)._device is None


def test_without_torch_or_an_accelerator_there_is_no_device(torch, monkeypatch):
    torch.accelerator.is_available = lambda: False
    assert _torch.accelerator() == (None, ())
    monkeypatch.setitem(sys.modules, "torch", None)
    assert _torch.accelerator() == (None, ())


def test_the_part_of_torch_that_is_stood_in_for_exists():
    torch = pytest.importorskip("torch")
    for name in ("is_available", "current_accelerator", "current_device_index", "current_stream", "synchronize"):
        assert callable(getattr(torch.accelerator, name))
    for name in ("isAllocatorInitialized", "getDeviceStats", "resetPeakStats"):
        assert callable(getattr(torch._C, f"_accelerator_{name}"))
    event = torch.Event(device="cpu", enable_timing=True)
    assert callable(torch.get_device_module)
    assert callable(event.record)
    assert callable(event.elapsed_time)
