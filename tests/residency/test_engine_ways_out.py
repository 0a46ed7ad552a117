"""Every way out of a managed run: errors, interrupts and exhausted memory, wherever they come, under every placement.

After each the pipeline computes what it did before, and nothing is left on the device but what is resident; after
leaving, everything is as it was.
"""

import itertools
import signal
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab.residency import Budget, OutOfMemory, Plan, apply, footprint, layerwise, step_down, swap
from reslab.residency._engine import _component, _guards, _interrupts, _lanes, _managed_components, _mover, _unit
from reslab.stages import Pipeline, Stage

WIDTH = 16


@pytest.fixture(scope="module", autouse=True)
def interrupts():
    """Let signals interrupt, also where the shell that started the tests in the background has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Block(torch.nn.Linear):
    """A linear block that fails before or after it has computed, when it is its turn."""

    fault = None

    def forward(self, x):
        Block.check(self, "before")
        result = torch.tanh(super().forward(x))
        Block.check(self, "after")
        return result

    @staticmethod
    def check(block, when):
        if Block.fault is not None:
            Block.fault(block, when)


class Model(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.blocks = torch.nn.ModuleList(Block(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Step(Stage):
    """Calls a model twice and draws noise; fails at its borders, when it is its turn."""

    fault = None

    def __init__(self, component, reads, writes):
        self.components, self.writes, self._reads = (component,), (writes,), reads

    def signature(self, available=()):
        from reslab.stages import REQUIRED, Signature

        return Signature(
            components=self.components, reads={self._reads: REQUIRED, "generator": REQUIRED}, writes=self.writes
        )

    def run(self, **arguments):
        self.may_fail("before")
        model, x = arguments[self.components[0]], arguments[self._reads]
        x = model(model(x) + torch.randn(WIDTH, generator=arguments["generator"]))
        self.may_fail("after")
        return {self.writes[0]: x}

    def may_fail(self, when):
        if Step.fault is not None:
            Step.fault(self.registered_name, when)


def make():
    pipeline = Pipeline({"one": Model(1), "two": Model(2)}, result="d")
    for name, component, reads, writes in (("A", "one", "x", "b"), ("B", "two", "b", "c"), ("C", "one", "c", "d")):
        pipeline.add(Step(component, reads, writes), name=name)
    return pipeline


PIPELINE = make()


def run():
    with torch.no_grad():
        return PIPELINE.run(x=torch.linspace(-1, 1, WIDTH), generator=torch.Generator().manual_seed(3))


WANT = run()
PLACES = {
    "resident": "resident",
    "swap": "swap",
    "swap each": swap(until="each stage"),
    "swap ahead": swap(until="each stage", prefetch_stages=1),
    "layerwise": layerwise(),
    "deep": layerwise(resident=1, prefetch=2),
    "kept": layerwise(resident=1, prefetch=0, until="run"),
    "disk": "disk",
}
#: What an injected error says; exhausted memory is explained.
INJECTED = "injected|ran out of memory"
ERRORS = (RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError)


@pytest.fixture(params=PLACES)
def plan(request):
    return Plan.of(dict.fromkeys(("one", "two"), PLACES[request.param]))


@pytest.fixture(autouse=True)
def no_faults():
    yield
    Block.fault = Step.fault = None


def picture():
    return [
        (path, id(p), p.detach().numpy().tobytes(), sorted(vars(p)), sorted(vars(part)), len(part._forward_pre_hooks))
        for component in PIPELINE.components.values()
        for path, part in component.named_modules()
        for p in part._parameters.values()
    ]


BEFORE = picture()


def resident_bytes(managed, plan):
    """What the plan keeps on the device outside of runs."""
    mover, script = managed._conductor.mover, managed._conductor.director.cursor
    held = [unit for unit in mover.on_device() if unit.slot is None]
    assert not mover.slots
    allowed = {unit for unit in mover.units if unit.number in script.keeps(unit.component, None)}
    assert set(held) <= allowed
    return managed.device_bytes


def nth(count, error):
    """A fault that raises at the count-th place where it is asked."""
    left = [count]

    def fault(*_where):
        left[0] -= 1
        if left[0] == 0:
            raise error("injected")

    return fault


#: Borders: stages, before and after. Blocks: stages, calls, blocks, before and after.
PLACES_TO_FAIL = [(Step, count + 1) for count in range(3 * 2)] + [(Block, count + 1) for count in range(3 * 2 * 3 * 2)]


def fail(managed, plan, error):
    """Run into a fault; then nothing but what stays is on the device, and the next run is right."""
    with pytest.raises(error, match=INJECTED):
        run()
    Block.fault = Step.fault = None
    resident_bytes(managed, plan)
    assert torch.equal(run(), WANT)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_whatever_is_raised_at_any_border_or_block(plan, error):
    with apply(PIPELINE, plan) as managed:
        run()
        for where, count in PLACES_TO_FAIL:
            where.fault = staticmethod(nth(count, error))
            fail(managed, plan, error)
    assert managed.device_bytes == 0
    assert picture() == BEFORE
    assert torch.equal(run(), WANT)


def test_whatever_is_raised_in_a_first_run(plan):
    for where, count in PLACES_TO_FAIL:
        with apply(PIPELINE, plan) as managed:
            where.fault = staticmethod(nth(count, KeyboardInterrupt))
            fail(managed, plan, KeyboardInterrupt)
        assert managed.device_bytes == 0
        assert picture() == BEFORE


class Copies:
    """Counts copies, and fails half-way through the one whose number is `fails_at`."""

    def __init__(self, monkeypatch):
        own = _lanes.ThreadLane.__init__.__kwdefaults__
        monkeypatch.setattr(_lanes.ThreadLane.__init__, "__kwdefaults__", own | {"copy": self.copy})
        self.set(0, None)

    def set(self, fails_at, error):
        self.made, self.fails_at, self.error = 0, fails_at, error

    def copy(self, target, source):
        self.made += 1
        if self.made == self.fails_at:
            _lanes.copy_on_host(target[: source.nbytes // 2], source[: source.nbytes // 2])
            raise self.error("injected")
        _lanes.copy_on_host(target, source)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_whatever_is_raised_inside_a_copy(plan, error, monkeypatch):
    copies = Copies(monkeypatch)
    with apply(PIPELINE, plan) as managed:
        run()
        copies.set(0, None)
        run()
        for count in range(1, copies.made + 1):
            copies.set(count, error)
            fail(managed, plan, error)
    assert managed.device_bytes == 0
    assert picture() == BEFORE


def test_whatever_is_raised_inside_a_copy_of_a_first_run(plan, monkeypatch):
    copies = Copies(monkeypatch)
    with apply(PIPELINE, plan):
        run()
    for count in range(1, copies.made + 1):
        with apply(PIPELINE, plan) as managed:
            copies.set(count, ERRORS[count % 3])
            fail(managed, plan, ERRORS[count % 3])
        assert managed.device_bytes == 0
        assert picture() == BEFORE


@pytest.mark.parametrize("method", ["fetch", "wait", "evict"])
def test_whatever_is_raised_before_or_after_any_move(plan, method, monkeypatch):
    """At every border, in every call, at the end of a run: errors of all three kinds in turn."""
    made, real = [0, 0], getattr(_mover.Mover, method)

    def move(*arguments, **named):
        made[0] += 1
        if made[0] == made[1]:
            raise ERRORS[made[1] % 3]("injected")
        real(*arguments, **named)
        if made[0] == -made[1]:
            raise ERRORS[made[1] % 3]("injected")

    with apply(PIPELINE, plan) as managed:
        run()
        monkeypatch.setattr(_mover.Mover, method, move)
        run()
        for count in range(1, made[0] + 1):
            made[:] = 0, count if count % 2 else -count  # every other one after it was made
            with pytest.raises(ERRORS, match=INJECTED):
                run()
            assert torch.equal(run(), WANT)
            resident_bytes(managed, plan)
    assert managed.device_bytes == 0
    assert picture() == BEFORE


def test_entering_that_is_interrupted_leaves_nothing_behind():
    plan = Plan.of({"one": "layerwise", "two": "disk"})
    for count in itertools.count(1, 71):
        managed = apply(PIPELINE, plan)
        sys.settrace(
            interrupted_at_line(count, (_managed_components, _component, _guards), signal.raise_signal, signal.SIGINT)
        )
        try:
            managed.__enter__()
        except KeyboardInterrupt:
            sys.settrace(None)
            assert picture() == BEFORE
        else:  # there are fewer lines
            break
        finally:
            sys.settrace(None)
    assert count > 500
    managed.close()  # and no conductor was left behind, or entering would have been refused
    assert picture() == BEFORE


def test_an_interrupt_while_a_swap_is_fetched_ahead_leaves_nothing_of_it():
    where = []

    def interrupt(stage, when):
        if (stage, when) == ("A", "after"):
            where.extend(str(unit.where) for unit in managed._conductor.mover.on_device("two"))
            raise KeyboardInterrupt

    with apply(PIPELINE, Plan.of({"two": swap(prefetch_stages=1)}), link="200 KB/s") as managed:
        run()
        Step.fault = staticmethod(interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert where == ["arriving"] * 4
        assert managed.device_bytes == 4 * 1088  # the other, which is resident
        Step.fault = None
        assert torch.equal(run(), WANT)
        assert managed.fetched_bytes == {"A": 4 * 1088}
    assert picture() == BEFORE


def interrupted_at_line(count, modules, interrupt=None, *arguments):
    """A trace function that interrupts at the count-th line run in some modules: past every mask, or by a signal."""
    files, left = {module.__file__ for module in modules}, [count]

    def local(frame, event, _argument):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                if interrupt is None:
                    raise KeyboardInterrupt
                interrupt(*arguments)
        return local

    return lambda frame, _event, _argument: local if frame.f_code.co_filename in files else None


@pytest.mark.parametrize("seed", range(2))
def test_interrupts_at_any_line_of_the_engine_are_healed(plan, seed):
    """Harder than a signal, which is held back while a unit turns."""
    generator = torch.Generator().manual_seed(seed)
    for count in torch.randint(1, 1500, (12,), generator=generator).tolist():
        with apply(PIPELINE, plan) as managed:
            run()
            sys.settrace(interrupted_at_line(count, (_mover, _unit)))
            try:
                run()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            assert torch.equal(run(), WANT)
            resident_bytes(managed, plan)
        assert picture() == BEFORE


def test_leaving_can_be_interrupted_and_goes_on_when_closed_again(plan):
    for count in range(1, 400, 37):
        managed = apply(PIPELINE, plan).__enter__()
        run()
        sys.settrace(interrupted_at_line(count, (_mover, _unit)))
        try:
            managed.close()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        managed.close()
        assert picture() == BEFORE
        assert torch.equal(run(), WANT)


def test_a_signal_waits_for_the_end_of_a_mask():
    done = []

    def stop_inside():
        with _interrupts.masked():
            signal.raise_signal(signal.SIGINT)
            done.append("inside")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        stop_inside()
    assert done == ["inside"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Out of memory


def test_out_of_memory_says_stage_asked_free_and_who_held_it():
    plan = Plan.of({"one": "resident", "two": "swap"})
    with apply(PIPELINE, plan, budget=Budget(device_bytes=2 * 4 * 1088)) as managed:
        managed._conductor.mover.limit_bytes = 2 * 4 * 1088 - 1  # another user takes a byte
        with pytest.raises(OutOfMemory) as raised:
            run()
        assert managed.device_bytes == 4 * 1088
    text = str(raised.value)
    assert "the stage 'B' ran out of memory on cpu" in text
    assert "4.25 KiB was asked for, 4.25 KiB was free, and weights held 4.25 KiB (one 4.25 KiB)" in text
    assert "on_oom='step-down'" in text
    assert isinstance(raised.value, torch.OutOfMemoryError)
    assert raised.value.__notes__ == ["in the stage 'B' (2 of 3) of 'pipeline'"]
    assert picture() == BEFORE


def test_memory_that_runs_out_at_any_allocation_is_explained_and_let_go(plan, monkeypatch):
    made, real = [0, 0], _mover.Mover._allocate

    def allocate(mover, nbytes):
        made[0] += 1
        if made[0] == made[1]:
            raise torch.OutOfMemoryError(f"Tried to allocate {nbytes} B")
        return real(mover, nbytes)

    monkeypatch.setattr(_mover.Mover, "_allocate", allocate)
    with apply(PIPELINE, plan):
        run()
    for count in range(1, made[0] + 1):
        with apply(PIPELINE, plan) as managed:
            made[:] = 0, count
            with pytest.raises(OutOfMemory, match=r"the stage '[ABC]' ran out of memory on cpu"):
                run()
            resident_bytes(managed, plan)
            assert torch.equal(run(), WANT)
        assert picture() == BEFORE


def test_step_down_begins_with_what_is_resident_too():
    plan = Plan.of().decide({"one": "resident", "two": "resident"}, why="to begin with")
    with apply(PIPELINE, plan, on_oom="step-down") as managed:
        managed._conductor.mover.limit_bytes = 2 * 4 * 1088 - 1  # another user takes memory
        assert torch.equal(run(), WANT)
        assert "the stage 'A' ran out of memory" in managed.notes[0]


@pytest.mark.parametrize("warm", [False, True], ids=["first run", "later run"])
@pytest.mark.parametrize("place", [place for place in PLACES if place != "disk"])
def test_step_down_takes_a_leaner_plan_says_so_and_gives_the_same_bits(place, warm):
    failed = []

    def exhaust(stage, when):
        if (stage, when) == ("B", "after") and not failed:
            failed.append(stage)
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")

    plan = Plan.of().decide({"one": PLACES[place], "two": PLACES[place]}, why="to begin with")
    with apply(PIPELINE, plan, on_oom="step-down") as managed:
        if warm:
            run()
        Step.fault = staticmethod(exhaust)
        assert torch.equal(run(), WANT)
        assert managed.plan != plan
        assert "the stage 'B' ran out of memory on cpu: 2.00 GiB was asked for" in managed.notes[0]
        assert "so the stage is run again with the leaner Plan(" in managed.notes[0]
        assert torch.equal(run(), WANT)
        need = [footprint(each, managed.workload).device_bytes["B"] for each in (plan, managed.plan)]
        assert need[1] < need[0]
    assert picture() == BEFORE


def test_step_down_retries_once_and_stops_where_nothing_is_left():
    def exhaust(stage, when):
        if (stage, when) == ("B", "before"):
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")

    Step.fault = staticmethod(exhaust)
    plan = Plan.of().decide({"one": "resident", "two": "resident"}, why="to begin with")
    with (
        apply(PIPELINE, plan, on_oom="step-down") as managed,
        pytest.raises(
            OutOfMemory, match=r"though the plan was made leaner\. A stage is repeated once; begin with less, such"
        ),
    ):
        run()
    assert len(managed.notes) == 1
    plan, nothing = Plan.of({"one": "resident", "two": "resident"}), pytest.raises(OutOfMemory, match="No leaner plan")
    with apply(PIPELINE, plan, on_oom="step-down"), nothing:
        run()
    assert picture() == BEFORE


def test_step_down_lets_go_of_what_the_failed_attempt_held():
    import weakref

    held = []

    def exhaust(stage, when):
        if (stage, when) == ("B", "after"):
            if not held:
                big = torch.zeros(1000)
                held.append(weakref.ref(big))
                raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")
            assert held[0]() is None

    Step.fault = staticmethod(exhaust)
    with apply(PIPELINE, Plan.of(), on_oom="step-down"):
        assert torch.equal(run(), WANT)


def test_leaner_plans_need_ever_less_and_end_with_one_block_at_a_time():
    with apply(PIPELINE, Plan.of()) as managed:
        run()
        work = managed.workload
    plan, needs = Plan.of(), []
    while plan is not None:
        needs.append(sorted(footprint(plan, work).device_bytes.values(), reverse=True))
        last, plan = plan, step_down(plan, work)
    assert needs == sorted(needs, reverse=True)
    assert len({tuple(need) for need in needs}) == len(needs)
    assert needs[-1][0] == 2 * 1088
    assert last.placement("one") == layerwise(prefetch=0, until="each stage")
    assert step_down(Plan.of({"one": "resident", "two": "resident"}), work) is None


@settings(max_examples=60)
@given(
    places=st.tuples(*[st.sampled_from([*PLACES.values()])] * 2),
    error=st.sampled_from(ERRORS),
    faults=st.lists(st.tuples(st.booleans(), st.integers(1, 36)), min_size=1, max_size=3),
)
def test_any_plan_any_interruptions_leave_the_bits_and_the_bytes(places, error, faults):
    plan = Plan.of(dict(zip(("one", "two"), places, strict=True)))
    with apply(PIPELINE, plan) as managed:
        for at_block, count in faults:
            fault = staticmethod(nth(count, error))
            (Block if at_block else Step).fault = fault
            try:
                run()
            except error:
                pass
            finally:
                Block.fault = Step.fault = None
            resident_bytes(managed, plan)
        assert torch.equal(run(), WANT)
    assert managed.device_bytes == 0
    assert picture() == BEFORE
