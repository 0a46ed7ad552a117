"""An interrupt may fall anywhere, also into the profiler: the record stays readable, and the next one is right."""

import sys

import pytest

from reslab.profiler import Profiler
from reslab.profiler._record import _decode, _record
from reslab.profiler.testing import FakeClock, FakeMemory, SimulatedDevice


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th line that runs inside the recorder."""

    def __init__(self, place):
        self.left = place
        self.raised = False

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename != _record.__file__:
            return None
        if event == "line" and not self.raised:
            self.left -= 1
            if self.left < 0:
                self.raised = True
                raise KeyboardInterrupt
        return self


def run(prof, clock):
    """What a pipeline does: whatever is begun without an error is ended, with the error if there is one."""

    def within(spans):
        if not spans:
            return clock.advance(10)
        prof.begin(*spans[0])
        try:
            within(spans[1:])
        except BaseException as error:
            prof.end(error)
            raise
        prof.end()

    within([("run", "lab"), ("stage", "denoise", 0), ("step", "step", 0), ("transfer", "vae", -1, 8)])


def interrupted(prof, clock, place):
    """Run once with an interrupt; say whether it fell."""
    before, interrupt = sys.gettrace(), InterruptAt(place)
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) if place is not None else pytest.raises(AssertionError):
            run(prof, clock)
            raise KeyboardInterrupt  # there are not so many lines
    finally:
        sys.settrace(before)
    return interrupt.raised


@pytest.mark.parametrize("with_device", [False, True])
def test_wherever_an_interrupt_falls_the_next_record_is_right(with_device):
    place, fell = 0, True
    while fell:
        clock = FakeClock()
        device = SimulatedDevice(clock) if with_device else None
        prof = Profiler(clock=clock, memory=FakeMemory(), device=device)
        with prof:
            fell = interrupted(prof, clock, place)
        clock.advance(1_000)
        with prof:
            start_ns = clock()
            run(prof, clock)
        spans = prof.profile.spans
        again = spans.filter(start_ns=start_ns)
        assert again.select("kind", "host_ns", "error").rows() == [
            (kind, 10, None) for kind in ("run", "stage", "step", "transfer")
        ]
        assert again["parent"].to_list() == [None, *again["span"].to_list()[:3]]
        assert again["allocated_after_bytes"].to_list() == [0, 0, None, None]
        place += 1
    assert place > 40  # the lines of the recorder that a run passes


def test_an_interrupt_while_the_device_is_asked_leaves_it_for_the_next_time(clock, monkeypatch):
    device = SimulatedDevice(clock)
    prof = Profiler(clock=clock, memory=None, device=device).start()
    run(prof, clock)
    elapsed_ns, asked = device.elapsed_ns, []

    def interrupt(first, second):
        asked.append(second)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return elapsed_ns(first, second)

    monkeypatch.setattr(device, "elapsed_ns", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prof.stop()
    assert prof.profile.spans["device_ns"].to_list() == [10] * 4


def test_reading_a_log_leaves_it_as_it_is(prof, event):
    with event("run", "lab"), event("stage", "denoise"):
        pass
    log, *_ = prof._recorder.logs()
    before = list(log)
    _decode.decode([log], origin_ns=0, until_ns=9, pools=["device"])
    assert log == before
