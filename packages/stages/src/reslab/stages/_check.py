"""Check a request before anything runs, and report all problems in one error.

Every value that a stage reads must be given, or be written by an earlier stage. Every component must exist. No keyword
may be unknown, or be overwritten before it is read. The rules of the model must hold, which each stage states in its
own `check`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reslab.stages._names import PipelineError, nearest
from reslab.stages._stage import REQUIRED, Binding, Signature, Stage

if TYPE_CHECKING:
    Bound = Sequence[tuple[Stage, Binding]]
    #: A stage, its binding, and what it may read.
    Rule = tuple[Stage, Binding, set[str]]


class Available(Collection[str]):
    """The names that have a value, known only by `in`; a stage may choose its work by them."""

    def __init__(self, has: Callable[[str], bool]) -> None:
        self._has = has

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


#: Every name has a value, so a stage shows all that it could read.
EVERYTHING = Available(lambda name: True)


def signatures(stage: Stage) -> tuple[Signature, Signature]:
    """Return a stage's signatures with every value given, and with none."""
    return stage.signature(EVERYTHING), stage.signature()


def reads(stage: Stage) -> set[str]:
    """Return the values that a stage may read, in its own names."""
    return {name for signature in signatures(stage) for name in signature.reads}


def component_names(stage: Stage, bind: Binding) -> list[str]:
    """Return the components that a stage uses, in the pipeline's names."""
    own = dict.fromkeys(n for signature in signatures(stage) for n in (*signature.components, *signature.reads))
    return [bind.components.get(name, name) for name in own if bind.is_component(name)]


def problems(
    bound: Bound,
    components: Mapping[str, Any],
    inputs: Mapping[str, Any],
    result: str | None,
    set_elsewhere: Mapping[str, str],
    defaults: Collection[str] = (),
) -> Iterator[str]:
    """Yield a sentence for each problem of running `bound` on these inputs; an input that is None counts as not given.

    Names in `defaults` have a value unless they are given as None.
    """
    yield from _unknown(bound, components, inputs, set_elsewhere)
    there = {name for name, value in inputs.items() if value is not None}
    there |= {name for name in defaults if name not in inputs}
    open_ended = False
    for stage, bind in bound:
        signature = stage.signature(_available(bind, there))
        missing = () if open_ended else _missing(stage, bind, signature, there)
        found = [*_components(stage, bind, signature, components), *missing]
        yield from found or broken_rules([(stage, bind, reads(stage))], components, inputs)
        open_ended |= signature.writes is None
        there |= {bind.value(name) for name in (*(signature.writes or ()), *signature.changes)}
    if result is not None and result not in there and not open_ended:
        yield f"no stage writes the result {result!r}; {nearest(result, there)}"


def broken_rules(rules: Sequence[Rule], components: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each stage whose rules the request breaks."""
    for stage, bind, names in rules:
        known = {name: inputs[bind.value(name)] for name in names if bind.value(name) in inputs}
        renamed = {name: components[source] for name, source in bind.components.items() if source in components}
        try:
            stage.check(known | dict(bind.given), {**components, **renamed})
        except PipelineError as broken:
            yield str(broken)


def cannot_run(found: Sequence[str]) -> PipelineError:
    """Return one error that lists all problems."""
    return PipelineError("\n- ".join(["this cannot run:", *found]) if len(found) > 1 else found[0])


def check_names(stage: Stage, name: str, bind: Binding) -> None:
    """Raise where a renaming or a fixed value names something that the stage does not have."""
    full, bare = signatures(stage)
    values = {*full.reads, *bare.reads, *(full.writes or ()), *(bare.writes or ())}
    open_ended = full.writes is None or bare.writes is None or full.gathers or bare.gathers
    for what, names, known in (
        ("values", bind.values, None if open_ended else values),
        ("given", bind.given, {*full.reads, *bare.reads}),
        ("components", bind.components, {*full.components, *bare.components, *full.reads, *bare.reads}),
    ):
        wrong = [own for own in names if known is not None and own not in known]
        if wrong:
            raise PipelineError(
                f"{what} of the stage {name!r} names {wrong[0]!r}, which {stage.stage_class} "
                f"does not have; {nearest(wrong[0], known or ())}"
            )


def _available(bind: Binding, there: Collection[str]) -> Available:
    def has(name: str) -> bool:
        return bind.given[name] is not None if name in bind.given else bind.value(name) in there

    return Available(has)


def _unknown(
    bound: Bound, components: Mapping[str, Any], inputs: Mapping[str, Any], set_elsewhere: Mapping[str, str]
) -> Iterator[str]:
    known, overwritten = _read_from_inputs(bound)
    known -= set_elsewhere.keys()
    for name, value in inputs.items():
        if name in set_elsewhere:
            if value is not None:
                yield set_elsewhere[name]
        elif name in components:
            yield f"{name!r} is a component of the pipeline, not a value: set it with pipeline.components[{name!r}] = …"
        elif name in known or (name in overwritten and value is None):
            continue
        elif name in overwritten:
            writer = overwritten[name]
            yield f"{name!r} would be ignored: the stage {writer!r} writes it before any stage reads it; leave it out"
        else:
            yield f"no stage reads {name!r}; {nearest(name, known)}"


def _read_from_inputs(bound: Bound) -> tuple[set[str], dict[str, str]]:
    """Return the values that a run can take from inputs, and the others, each with the stage that overwrites it.

    A value that a stage writes in every case hides an input from later stages; a value that it may write does not.
    """
    known: set[str] = set()
    written: dict[str, str] = {}
    for stage, bind in bound:
        known |= {bind.value(name) for name in _asked_for(stage, bind)} - written.keys()
        full, bare = (signature.writes or () for signature in signatures(stage))
        for name in full:
            if name in bare:
                written.setdefault(bind.value(name), stage.registered_name)
    return known, {name: stage for name, stage in written.items() if name not in known}


def _asked_for(stage: Stage, bind: Binding) -> set[str]:
    return {name for name in reads(stage) if name not in bind.given and not bind.is_component(name)}


def _components(stage: Stage, bind: Binding, signature: Signature, components: Mapping[str, Any]) -> Iterator[str]:
    for name in signature.components:
        source = bind.components.get(name, name)
        if source not in components:
            yield f"the stage {stage.registered_name!r} uses the component {source!r}; {nearest(source, components)}"


def _missing(stage: Stage, bind: Binding, signature: Signature, there: set[str]) -> Iterator[str]:
    for name, default in signature.reads.items():
        source = bind.value(name)
        if default is REQUIRED and source not in there and name not in bind.given and not bind.is_component(name):
            renamed = f" (as {name!r})" if name != source else ""
            asks = f"the stage {stage.registered_name!r} reads {source!r}{renamed}"
            yield f"{asks}: give it to run, or add a stage that writes it"
