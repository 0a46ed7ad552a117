"""The order of moves: what computes is there, bytes are as expected, slots and resident blocks keep their word."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslab.residency import (
    Act,
    Call,
    ComponentSize,
    Placement,
    Plan,
    PlanError,
    Workload,
    footprint,
    layerwise,
    schedule,
    swap,
)


@st.composite
def workloads(draw):
    names = ("transformer", "text_encoder", "vae")
    sizes = {
        name: ComponentSize(
            outside_bytes=draw(st.integers(0, 50)),
            block_bytes=tuple(draw(st.lists(st.integers(1, 99), max_size=6))),
        )
        for name in names
    }
    stages = tuple("abcde"[: draw(st.integers(1, 5))])
    calls = []
    for stage in stages:
        for name in draw(st.lists(st.sampled_from(names), max_size=4)):
            blocks = range(len(sizes[name].block_bytes))
            if draw(st.booleans()):
                blocks = [block for block in blocks if draw(st.booleans())]
            calls.append(Call(stage=stage, component=name, blocks=tuple(blocks)))
    return Workload(components=sizes, stages=stages, calls=tuple(calls))


@st.composite
def plans(draw, workload, foreign=True):
    chosen = {}
    for name, size in workload.components.items():
        for stage in draw(st.lists(st.sampled_from((None, *workload.stages)), unique=True, max_size=3)):
            chosen[name if stage is None else f"{name}@{stage}"] = draw(placements(len(size.block_bytes), foreign))
    return Plan.of(chosen)


def placements(count, foreign):
    streaming = st.builds(
        layerwise,
        resident=st.integers(0, count),
        layout=st.sampled_from(["strided", "leading"]),
        prefetch=st.integers(0, 3),
        until=st.sampled_from(["run", "last stage", "each stage"]),
    )
    other = st.fixed_dictionaries(
        {
            "placement": st.just("layerwise"),
            "granularity": st.sampled_from(["group", "leaf"]),
            "copy_back": st.booleans(),
        }
    )
    swaps = st.builds(swap, until=st.sampled_from(["last stage", "each stage"]), prefetch_stages=st.integers(0, 2))
    own = st.one_of(st.just(Placement()), swaps, streaming, st.just({"placement": "disk"}))
    return st.one_of(own, other, st.just({"placement": "swap", "copy_back": True})) if foreign else own


@st.composite
def cases(draw, foreign=True):
    workload = draw(workloads())
    return draw(plans(workload, foreign)), workload


class Replay:
    """Carries out moves as a device would, refusing what cannot be, and keeps count."""

    def __init__(self, workload):
        self.workload = workload
        self.there = {name: set() for name in workload.components}  # units fetched
        self.arrived = {name: set() for name in workload.components}  # and waited for
        self.slots = {}
        self.peak = Counter()
        self.fetched, self.back = Counter(), Counter()

    def units(self, move):
        blocks = range(len(self.workload.components[move.component].block_bytes))
        return {-1, *blocks} if move.block is None else {move.block}

    def run(self, moves):
        for move in moves:
            getattr(self, move.act.name.lower())(move, self.units(move))
            self.peak[move.stage] = max(self.peak[move.stage], self.held_bytes())
        return self

    def held_bytes(self):
        return sum(self.nbytes(name, unit) for name, units in self.there.items() for unit in units)

    def nbytes(self, name, unit):
        size = self.workload.components[name]
        return size.outside_bytes if unit == -1 else size.block_bytes[unit]

    def fetch(self, move, units):
        assert not units & self.there[move.component], "fetched twice"
        assert move.nbytes == sum(self.nbytes(move.component, unit) for unit in units)
        if move.slot is not None:
            assert (move.component, move.slot) not in self.slots, "the slot is taken"
            self.slots[move.component, move.slot] = move.block
        self.there[move.component] |= units
        self.fetched[move.stage] += move.nbytes

    def evict(self, move, units):
        assert units <= self.there[move.component], "evicted, but not there"
        if move.slot is not None:
            assert self.slots.pop((move.component, move.slot)) == move.block
        self.there[move.component] -= units
        self.arrived[move.component] -= units

    def copy_back(self, move, units):
        assert units <= self.there[move.component]
        self.back[move.stage] += move.nbytes

    def wait(self, move, units):
        assert units <= self.there[move.component], "waited for units that no move fetched"
        self.arrived[move.component] |= units

    def compute(self, move, units):
        size = self.workload.components[move.component]
        call = self.workload.calls[move.call]
        needed = {move.block} if move.block is not None else {-1 for _ in size.block_bytes} | set(call.blocks)
        assert needed <= self.arrived[move.component] | self.empty(move.component), "computed without its weights"
        assert {-1} <= self.arrived[move.component] | self.empty(move.component)

    def empty(self, name):
        return {-1} if self.workload.components[name].outside_bytes == 0 else set()


@given(cases())
def test_every_block_is_there_when_it_computes_and_slots_are_never_shared(case):
    plan, workload = case
    replay = Replay(workload).run(schedule(plan, workload).moves)
    assert not replay.slots


def test_what_the_next_run_begins_with_does_not_leave_at_the_end_whatever_the_last_stage_keeps():
    size = ComponentSize(outside_bytes=5, block_bytes=(10, 10))
    calls = tuple(Call(stage=stage, component="vae", blocks=(0, 1)) for stage in ("encode", "decode"))
    work = Workload(components={"vae": size}, stages=("encode", "decode"), calls=calls)
    plan = Plan.of({"vae": "resident", "vae@decode": layerwise(prefetch=0, until="each stage")})
    evicted = [move.block for move in schedule(plan, work).moves if move.act is Act.EVICT]
    assert -1 not in evicted
    assert footprint(plan, work).host().copies == {"vae": 20}


@given(cases())
def test_every_call_computes_once_and_in_order(case):
    plan, workload = case
    computed = [move for move in schedule(plan, workload).moves if move.act is Act.COMPUTE]
    calls = [move.call for move in computed]
    assert list(dict.fromkeys(calls)) == list(range(len(workload.calls)))
    assert calls == sorted(calls)
    for number, call in enumerate(workload.calls):
        blocks = [move.block for move in computed if move.call == number]
        assert blocks in ([None], list(call.blocks))


@given(cases())
def test_the_footprint_is_the_sum_of_the_moves(case):
    plan, workload = case
    moves = schedule(plan, workload)
    rows = footprint(plan, workload)
    for stage in workload.stages:
        of_stage = [row for row in rows if row.stage == stage]
        assert sum(row.fetched_bytes for row in of_stage) == moves.moved_bytes(stage=stage)
        assert sum(row.copied_back_bytes for row in of_stage) == moves.moved_bytes(Act.COPY_BACK, stage=stage)


@given(cases())
def test_what_moves_in_a_run_waits_and_what_is_fetched_before_and_stays_does_not(case):
    plan, workload = case
    account, moved = footprint(plan, workload), {name: set() for name in workload.components}
    for move in schedule(plan, workload).moves:
        if move.act is Act.EVICT or (move.act is Act.FETCH and move.stage is not None):
            moved[move.component] |= Replay(workload).units(move)
    for name, size in workload.components.items() if workload.calls else ():
        sizes = [size.outside_bytes if unit == -1 else size.block_bytes[unit] for unit in moved[name]]
        waiting = account.waiting[name]
        assert waiting.nbytes == sum(sizes)
        assert waiting.window_bytes == (max(sizes, default=0) if waiting.from_disk else 0)


@given(cases())
def test_where_no_call_is_known_all_that_does_not_stay_waits(case):
    plan, workload = case
    account = footprint(plan, replace(workload, calls=()))
    for name, size in workload.components.items():
        placed = [plan.placement(name, stage) for stage in workload.stages]
        if all(each == Placement() for each in placed):
            assert account.waiting[name].nbytes == 0
        elif not any(each.kind == "resident" or each.until == "run" for each in placed):
            assert account.waiting[name].nbytes == size.weight_bytes


@given(cases())
def test_a_stage_never_holds_more_than_the_footprint_says(case):
    plan, workload = case
    replay = Replay(workload).run(schedule(plan, workload).moves)
    after_border = footprint(plan, workload).device_bytes
    previous = 0
    for stage in workload.stages:  # at a border, what leaves is still there when the first move of the stage is made
        assert replay.peak[stage] <= max(after_border[stage], previous)
        previous = after_border[stage]


@given(cases())
def test_the_weight_peak_of_a_component_is_its_highest_row(case):
    plan, workload = case
    account = footprint(plan, workload)
    for name in workload.components:
        own = [row.device_bytes for row in account if row.component == name]
        assert account.weight_peak_bytes(name) in own
        assert account.weight_peak_bytes(name) >= max(own)


def test_the_weight_peak_of_a_component_that_is_not_there_names_the_nearest():
    work = Workload(components={"transformer": ComponentSize(outside_bytes=1)}, stages=("denoise",), calls=())
    with pytest.raises(PlanError, match="no component 'transfomer'; did you mean 'transformer'"):
        footprint(Plan.of(), work).weight_peak_bytes("transfomer")


@given(cases(foreign=False))
def test_our_own_placements_never_copy_back(case):
    plan, workload = case
    assert schedule(plan, workload).moved_bytes(Act.COPY_BACK) == 0


@given(cases(foreign=False))
def test_what_stays_moves_once(case):
    """Blocks of one placement for all stages that keeps them from first use to last are fetched once at most."""
    _, workload = case
    plan = Plan.of({name: layerwise(resident=len(s.block_bytes) // 2) for name, s in workload.components.items()})
    fetched = Counter((m.component, m.block) for m in schedule(plan, workload).moves if m.act is Act.FETCH)
    for name, size in workload.components.items():
        for block in plan.placement(name).resident_blocks(len(size.block_bytes)):
            assert fetched[name, block] <= 1


@given(cases(foreign=False))
def test_without_streaming_everything_used_moves_once(case):
    _, workload = case
    plan = Plan.of(dict.fromkeys(workload.components, "swap"))
    used = {call.component for call in workload.calls}
    assert schedule(plan, workload).moved_bytes() == sum(workload.components[name].weight_bytes for name in used)


@given(st.integers(1, 64), st.integers(0, 64))
def test_strided_blocks_are_evenly_spread(count, kept):
    stay = sorted(layerwise(resident=kept).resident_blocks(count))
    assert len(stay) == min(kept, count)
    gaps = [b - a for a, b in zip(stay, [*stay[1:], count + stay[0]] if stay else [], strict=True)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def transformer(blocks=48, block_bytes=773, outside_bytes=800, forwards=8):
    size = ComponentSize(outside_bytes=outside_bytes, block_bytes=(block_bytes,) * blocks)
    calls = (Call(stage="denoise", component="transformer", blocks=tuple(range(blocks))),) * forwards
    return Workload(components={"transformer": size}, stages=("denoise",), calls=calls)


@pytest.mark.parametrize(("kept", "streamed"), [(0, 48), (12, 36), (46, 2), (47, 1), (48, 0)])
def test_bytes_of_a_streamed_transformer_by_hand(kept, streamed):
    moved = schedule(Plan.of({"transformer": layerwise(resident=kept)}), transformer()).moved_bytes()
    times = 8 if streamed > 2 else 1  # two slots hold two blocks for good
    assert moved == 800 + kept * 773 + times * streamed * 773


def test_the_next_blocks_are_fetched_before_the_compute_that_hides_them():
    moves = schedule(Plan.of({"transformer": layerwise(prefetch=2)}), transformer(forwards=2)).moves
    fetch = {}
    for at, move in enumerate(moves):
        if move.act is Act.FETCH:
            fetch.setdefault(move.block, []).append(at)
    for at, move in enumerate(moves):
        ahead = [(move.block + step) % 48 for step in (1, 2)] if move.act is Act.COMPUTE else []
        last_two = move.call == 1 and move.block >= 46
        for block in ahead:
            issued = [place for place in fetch[block] if place < at]
            assert last_two or len(issued) == move.call + (1 if block > move.block else 2)


def test_bytes_are_moved_again_in_each_stage_only_where_asked():
    size = ComponentSize(outside_bytes=100)
    calls = tuple(Call(stage=stage, component="vae") for stage in ("encode", "decode"))
    workload = Workload(components={"vae": size}, stages=("encode", "denoise", "decode"), calls=calls)
    assert schedule(Plan.of({"vae": swap()}), workload).moved_bytes() == 100
    assert schedule(Plan.of({"vae": swap(until="each stage")}), workload).moved_bytes() == 200
    assert footprint(Plan.of({"vae": swap()}), workload).device_bytes == {"encode": 100, "denoise": 100, "decode": 100}
    assert footprint(Plan.of({"vae": swap(until="each stage")}), workload).device_bytes["denoise"] == 0
    assert schedule(Plan.of(), workload).moved_bytes() == 0


def three_stages(**blocks):
    """One component a stage, of 100 bytes outside its blocks and 10 a block; `note` is a stage that calls none."""
    sizes = {name: ComponentSize(outside_bytes=100, block_bytes=(10,) * count) for name, count in blocks.items()}
    stages = ("encode", "denoise", "note", "decode")
    used = (("encode", "encoder"), ("denoise", "transformer"), ("denoise", "transformer"), ("decode", "vae"))
    calls = tuple(Call(stage=stage, component=name, blocks=tuple(range(blocks[name]))) for stage, name in used)
    return Workload(components=sizes, stages=stages, calls=calls)


def lines(moves):
    return [f"{move.act} {move.component}" + (f" {move.block}" if move.block is not None else "") for move in moves]


def test_a_swap_is_fetched_in_the_last_stage_before_that_calls_something():
    work = three_stages(encoder=1, transformer=1, vae=1)
    plan = Plan.of(dict.fromkeys(work.components, swap(until="each stage", prefetch_stages=1)))
    moves = {stage: lines(m for m in schedule(plan, work).moves if m.stage == stage) for stage in work.stages}
    assert moves["encode"] == ["fetch encoder", "fetch transformer", "wait encoder", "compute encoder"]
    assert moves["denoise"][:3] == ["evict encoder", "fetch vae", "wait transformer"]
    assert moves["note"] == ["evict transformer"]
    assert moves["decode"] == ["wait vae", "compute vae", "evict vae"]
    assert footprint(plan, work).device_bytes == {"encode": 220, "denoise": 220, "note": 110, "decode": 110}
    assert [row.fetched_bytes for row in footprint(plan, work) if row.component == "vae"] == [0, 110, 0, 0]
    assert schedule(plan, work).moved_bytes(stage="denoise") == 110


def test_a_swap_that_is_prefetched_waits_behind_what_the_stage_before_streams():
    work = three_stages(encoder=0, transformer=4, vae=0)
    plan = Plan.of({"transformer": layerwise(), "vae": swap(prefetch_stages=1)})
    denoise = [move for move in schedule(plan, work).moves if move.stage == "denoise"]
    fetched = [move.component for move in denoise if move.act is Act.FETCH]
    assert fetched == ["transformer"] * 9 + ["vae"]
    after = lines(denoise[denoise.index(next(move for move in denoise if move.component == "vae")) + 1 :])
    assert [each for each in after if each.startswith("compute")] == ["compute transformer 2", "compute transformer 3"]


def test_a_swap_can_be_fetched_several_stages_ahead_and_stays_where_that_is_a_stage_of_its_own():
    work = three_stages(encoder=1, transformer=1, vae=1)
    two = Plan.of({"vae": swap(prefetch_stages=2)})
    assert schedule(two, work).moved_bytes(stage="encode") == 110
    calls = (*work.calls[:1], Call(stage="encode", component="vae"), *work.calls[1:])
    again = replace(work, calls=calls)
    each = Plan.of({"vae": swap(until="each stage", prefetch_stages=2)})
    assert [row.fetched_bytes for row in footprint(each, again) if row.component == "vae"] == [110, 0, 0, 0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"transfromer": "swap"}, "the plan places 'transfromer', which is not there; did you mean 'transformer'?"),
        ({"transformer@denoize": "swap"}, "in a stage 'denoize', which is not there; did you mean 'denoise'?"),
        ({"transformer.resident": 49}, "transformer.resident=49, but transformer has 48 blocks"),
    ],
)
def test_a_plan_for_what_is_not_there_is_one_clear_error(chosen, message):
    for function in (schedule, footprint):
        with pytest.raises(PlanError) as error:
            function(Plan.of(chosen), transformer())
        assert message in str(error.value)


def test_moves_are_a_table_too():
    frame = schedule(Plan.of({"transformer": "layerwise"}), transformer(blocks=3, forwards=1)).frame()
    assert frame.columns == ["act", "component", "block", "nbytes", "slot", "stage", "call"]
    assert frame.filter(act="fetch")["nbytes"].to_list() == [800, 773, 773, 773]
    assert frame.filter(act="fetch")["slot"].to_list() == [None, 0, 1, 0]
