"""Checking a request before anything runs.

Every value that a stage reads is given, or written by an earlier stage; every component exists; no keyword is unknown;
and the rules of the model hold, which each stage states in its own `check`. All that is wrong is said in one error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reslab.stages._names import PipelineError, nearest
from reslab.stages._stage import REQUIRED, Binding, Signature, Stage

if TYPE_CHECKING:
    Bound = Sequence[tuple[Stage, Binding]]


class _Everything(Collection[str]):
    """A request that gives every value: with it a stage shows all that it could read."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


EVERYTHING = _Everything()


def signatures(stage: Stage) -> tuple[Signature, Signature]:
    """What a stage asks for when everything is given, and when nothing is."""
    return stage.signature(EVERYTHING), stage.signature()


def component_names(stage: Stage, bind: Binding) -> list[str]:
    """The components that a stage asks for, in the pipeline's names."""
    own = dict.fromkeys(n for signature in signatures(stage) for n in (*signature.components, *signature.reads))
    return [bind.components.get(name, name) for name in own if bind.is_component(name)]


def check_request(bound: Bound, components: Mapping[str, Any], inputs: Collection[str], given: Collection[str]) -> None:
    """Raise one `PipelineError` saying all that is wrong with running `bound` on these inputs.

    `inputs` are the names passed; `given` those of them that are not None.
    """
    problems = [*_unknown(bound, components, inputs)]
    there, open_ended = set(given), False
    for stage, bind in bound:
        own_names = {source: name for name, source in bind.values.items()}
        signature = stage.signature({own_names.get(name, name) for name in there} | set(bind.given))
        problems += _components(stage, bind, signature, components)
        if not open_ended:
            problems += _missing(stage, bind, signature, there)
        open_ended |= signature.writes is None
        there |= {bind.value(name) for name in signature.writes or ()}
    if problems:
        raise PipelineError("\n".join(problems) if len(problems) == 1 else "\n- ".join(["this cannot run:", *problems]))


def check_rules(bound: Bound, components: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Ask each stage whether the request keeps the rules of its model."""
    for stage, bind in bound:
        if type(stage).check is not Stage.check:
            reads = stage.signature(EVERYTHING).reads
            known = {name: values[bind.value(name)] for name in reads if bind.value(name) in values}
            renamed = {name: components[source] for name, source in bind.components.items() if source in components}
            stage.check(known | dict(bind.given), {**components, **renamed})


def check_names(stage: Stage, bind: Binding) -> None:
    """Raise where a renaming or a fixed value names something that the stage does not have."""
    full, bare = signatures(stage)
    values = {*full.reads, *bare.reads, *(full.writes or ()), *(bare.writes or ())}
    open_ended = full.writes is None or bare.writes is None
    for what, names, known in (
        ("values", bind.values, None if open_ended else values),
        ("given", bind.given, {*full.reads, *bare.reads}),
        ("components", bind.components, {*full.components, *bare.components, *full.reads, *bare.reads}),
    ):
        wrong = [name for name in names if known is not None and name not in known]
        if wrong:
            raise PipelineError(
                f"{what} of the stage {stage.registered_name!r} names {wrong[0]!r}, which {stage.stage_class} "
                f"does not have; {nearest(wrong[0], known or ())}"
            )


def _unknown(bound: Bound, components: Mapping[str, Any], inputs: Collection[str]) -> Iterator[str]:
    known = {bind.value(n) for stage, bind in bound for signature in signatures(stage) for n in signature.reads}
    for name in inputs:
        if name in components:
            yield f"{name!r} is a component of the pipeline, not a value: set it with pipeline.components[{name!r}] = …"
        elif name not in known:
            yield f"no stage reads {name!r}; {nearest(name, known - set(components))}"


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
