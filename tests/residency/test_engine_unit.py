"""A unit walks its table of states and events: no other way, with its values intact, wherever an interrupt comes."""

import ast
import copy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab.residency import Budget, ComponentSize, Plan, ResidencyError, Workload
from reslab.residency._engine import _unit
from reslab.residency._engine._config import EngineConfig, Sources
from reslab.residency._engine._lanes import LinkThrottle
from reslab.residency._engine._layout import HostBuffer, boundary, lay_out
from reslab.residency._engine._merged_copy import MergedUnit
from reslab.residency._engine._only_copy import OnlyCopy, release_part
from reslab.residency._engine._unit import TABLE, Event, SharedSource, Slot, Unit, Where

CPU = torch.device("cpu")


class Merging(Sources):
    """The engine's sources, but that what a LoRA makes of any weight is 3."""

    def make(self, unit):
        if not isinstance(unit, MergedUnit):
            return super().make(unit)
        memory = HostBuffer(unit.layout)
        memory.fill_from(torch.full(piece.size, 3.0) for piece in unit.layout.pieces)
        return memory


class Ticket:
    """A copy that is made when it is waited for, or never."""

    def settle(self):
        pass


class World:
    """Two blocks of a model and a merged copy of the first, one slot, and a plan that changes its mind."""

    def __init__(self):
        torch.manual_seed(0)
        self.blocks = [torch.nn.Linear(8, 4) for _ in range(2)]
        layouts = [lay_out(block.parameters(), boundary=boundary(CPU)) for block in self.blocks]
        self.units = [Unit("model", number, layout, SharedSource(), CPU) for number, layout in enumerate(layouts)]
        self.merged = MergedUnit("model+lora", self.units[0], None, None, CPU)
        self.want = {unit: [value.clone() for value in unit.values] for unit in self.units}
        self.want[self.merged] = [torch.full_like(value, 3.0) for value in self.want[self.units[0]]]
        self.units.append(self.merged)
        self.slots = {
            name: Slot(0, torch.empty(layouts[0].nbytes, dtype=torch.uint8)) for name in ("model", "model+lora")
        }
        self.sources = Merging(
            EngineConfig(device=CPU, link=LinkThrottle(None), budget=Budget()), Plan.of(), note=print
        )
        names = {id(parameter): (str(place),) for place, parameter in enumerate(self.parameters())}
        self.sources.names = dict.fromkeys(self.slots, names)
        self.plan("resident")

    def parameters(self):
        return [parameter for block in self.blocks for parameter in block.parameters()]

    def plan(self, place):
        size = ComponentSize(outside_bytes=0, block_bytes=(144, 144))
        work = Workload(components=dict.fromkeys(self.slots, size), stages=("s",), calls=())
        self.sources.use_plan(Plan.of(dict.fromkeys(self.slots, place)), work, self.units)

    def come(self, unit, event, in_slot):
        """Let an event come to a unit, as the mover does."""
        arguments = {
            Event.ADOPT: lambda: [each.adopt(self.sources) for each in unit.needs],
            Event.SHARE: lambda: unit.share(SharedSource()),
            Event.RENEW: lambda: unit.renew(self.sources),
            Event.BEGIN_FETCH: lambda: unit.begin_fetch(**self.memory(unit, in_slot)),
            Event.ARRIVE: lambda: (self.copy(unit), unit.arrive(self.sources)),
            Event.LEAVE: lambda: unit.leave(self.sources),
            Event.RESTORE: lambda: unit.restore(),
            Event.SHOW: lambda: unit.show(),
            Event.KEEP_WRITES: lambda: self.write(unit),
            Event.HEAL: lambda: unit.heal(),
        }
        arguments[event]()

    def memory(self, unit, in_slot):
        if unit.where is not Where.AWAY:
            return {"target": torch.empty(0), "ticket": Ticket()}
        if isinstance(unit.source, OnlyCopy):
            return {"target": unit.source.target(lambda: None), "ticket": Ticket()}
        slot = self.slots[unit.component] if in_slot else None
        target = slot.buffer if slot is not None else torch.empty(unit.layout.nbytes, dtype=torch.uint8)
        return {"target": target, "ticket": Ticket(), "slot": slot}

    def copy(self, unit):
        if unit.where is Where.ARRIVING:
            for target, part in unit.source.parts(unit.buffer):
                staged = part.staged()
                target[: staged.nbytes].copy_(staged)
                release_part(part)

    def write(self, unit):
        """Double the weights that the parameters hold, and have that kept."""
        if unit.is_front and unit.keeps_writes and unit.where in (Where.UNTOUCHED, Where.DEVICE):
            with torch.no_grad():
                for piece, want in zip(unit.layout.pieces, self.want[unit], strict=True):
                    piece.parameter.mul_(2)
                    want.mul_(2)
        assert not unit.keep_writes()

    def check(self):
        for slot in self.slots.values():
            assert [unit for unit in self.units if unit.slot is slot] == ([slot.owner] if slot.owner else [])
        for unit in self.units:
            assert (unit.held_bytes > 0) == (unit.where in (Where.ARRIVING, Where.DEVICE))
            if unit.is_front and not (unit is self.merged and unit.where is Where.UNTOUCHED):  # which has no weights
                self.check_front(unit)

    def check_front(self, unit):
        for piece, want in zip(unit.layout.pieces, self.want[unit], strict=True):
            if unit.is_on_device or not unit.is_managed:
                assert torch.equal(piece.parameter, want)
            else:
                assert piece.parameter.numel() == 0
                assert torch.equal(unit.whole(piece.parameter), want)
        if unit.is_managed:
            with pytest.raises(ResidencyError, match="copying 'model"):
                copy.deepcopy(unit.layout.pieces[0].parameter)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # the unit
        st.sampled_from([True, True, True, False]),  # an event that may come, or any
        st.integers(0, 99),  # which
        st.booleans(),  # in a slot
        st.sampled_from(["resident", "swap"]),  # the plan in force
    ),
    min_size=10,
    max_size=60,
)


def chosen(unit, may, which):
    """Return an event: any, or one of those that the table lets come, first of all those that change something."""
    here = [event for event in Event if (unit.where, event) in TABLE]
    changing = [event for event in here if TABLE[unit.where, event] is not unit.where]
    events = (changing * 3 + here) if may else [*Event]
    return events[which % len(events)]


def can_come(world, unit, event, in_slot):
    """Tell what the table says, and the rule of slots."""
    is_free = world.slots[unit.component].owner is None
    takes_slot = event is Event.BEGIN_FETCH and in_slot and unit.where is Where.AWAY
    return (unit.where, event) in TABLE and (is_free or not takes_slot or isinstance(unit.source, OnlyCopy))


def walk(world, steps):
    """Yield for each step the unit, its event, and what lets the event come."""
    for number, may, which, in_slot, place in steps:
        unit = world.units[number]
        event = chosen(unit, may, which)
        if event is Event.SHARE and unit is not world.merged:
            continue  # only what is merged shares what it comes to be
        world.plan(place)
        yield unit, event, in_slot


@settings(max_examples=200)
@given(steps=STEPS)
def test_any_events_come_as_the_table_says_or_are_refused_and_change_nothing(steps):
    world = World()
    for unit, event, in_slot in walk(world, steps):
        before = unit.where
        if can_come(world, unit, event, in_slot):
            world.come(unit, event, in_slot)
            assert unit.where is TABLE[before, event]
        else:
            with pytest.raises(AssertionError, match=r"cannot (come to|have the slot of) .*Unit"):
                world.come(unit, event, in_slot)
            assert unit.where is before
        world.check()


def interrupt_at(line):
    """A trace function that interrupts at the line-th line that is run in the file of units."""
    left = [line]

    def local(frame, event, _argument):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return local

    return lambda frame, _event, _argument: local if frame.f_code.co_filename == _unit.__file__ else None


@settings(max_examples=200)
@given(steps=STEPS, lines=st.lists(st.integers(1, 60), min_size=60, max_size=60))
def test_after_an_interrupt_at_any_line_healing_leaves_the_state_before_or_after(steps, lines):
    world = World()
    for (unit, event, in_slot), line in zip(walk(world, steps), lines, strict=False):
        if not can_come(world, unit, event, in_slot) or event in (Event.KEEP_WRITES, Event.SHARE):
            continue
        before = unit.where
        sys.settrace(interrupt_at(line))
        try:
            world.come(unit, event, in_slot)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        for each in unit.needs:
            each.heal()
        assert unit.where in (before, TABLE[before, event])
        world.check()


def fields_of_units():
    unit = World().merged
    return {*vars(unit), *vars(unit.shared), *vars(Slot(0, torch.empty(0)))} - {"number", "component"}


def assigned(tree, fields):
    """Yield the lines that assign such a field of anything but the object itself, or of a unit that it is."""
    for part in ast.walk(tree):
        is_unit = isinstance(part, ast.ClassDef) and any("Unit" in ast.unparse(base) for base in part.bases)
        for each in ast.walk(part) if is_unit or isinstance(part, ast.Module) else ():
            is_store = isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
            if is_store and each.attr in fields and (is_unit or ast.unparse(each.value) != "self"):
                yield each.lineno


def test_no_other_file_assigns_a_field_of_a_unit():
    files = sorted(Path(_unit.__file__).parent.glob("*.py"))
    own = {"_base", "_lora", "_tell"}  # of a merged unit alone
    found = {file.name: [*assigned(ast.parse(file.read_text()), fields_of_units() - own)] for file in files}
    assert [name for name, lines in found.items() if lines] == ["_unit.py"]
