"""Observers get events, nested like brackets, and never alter the run."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab.stages import Kind, Pipeline, Stage, stage


@stage(writes="doubled")
def double(number, doubler):
    return doubler.forward(number)


def fails():
    raise ValueError("own")


def test_run_stages_and_component_calls_are_told(log, doubler):
    pipeline = Pipeline({"doubler": doubler}, name="video", result="doubled").add(double).add(double, name="again")
    with pipeline.observe(log):
        assert pipeline.run(number=4) == 8
    assert log.lines == [
        "run video",
        "  stage double 0",
        "    component call doubler.forward",
        "  stage again 1",
        "    component call doubler.forward",
    ]


def test_kinds_are_the_texts_that_say_them():
    assert [kind.value for kind in Kind] == [
        "run", "stage", "step", "guidance pass", "component call", "transfer", "wait",
    ]  # fmt: skip
    assert all(kind.doc.endswith(".") for kind in Kind)
    assert Kind("run") is Kind.RUN


def test_error_is_told_to_all_that_it_ends(log):
    pipeline = Pipeline().add(stage(fails), name="fails").add(double)
    with pipeline.observe(log), pytest.raises(ValueError, match="own"):
        pipeline.run(number=1, doubler=None)
    assert log.lines == ["run pipeline ! ValueError", "  stage fails 0 ! ValueError"]


def test_nothing_is_told_of_a_request_that_cannot_run(log):
    pipeline = Pipeline().add(double)
    with pipeline.observe(log), pytest.raises(ValueError, match="number"):
        pipeline.run()
    assert log.lines == []


class Node(Stage):
    """Runs a pipeline of its own inside, and may raise after it; `catches` keeps an inner error to itself."""

    def __init__(self, tree, log):
        self.tree, self.log = tree, log

    def run(self):
        children, error, catches = self.tree
        try:
            run_observed(children, self.log)
        except BaseException:
            if not catches:
                raise
        if error is not None:
            raise error


def run_observed(children, log):
    pipeline = Pipeline(name="inner")
    for number, child in enumerate(children):
        pipeline.add(Node(child, log), name=f"n{number}")
    with pipeline.observe(log):
        pipeline.run()


def expected(children, depth=0):
    """The lines that an observer must write, and the name of the error that leaves."""
    lines, left = [], ""
    for number, (grandchildren, error, catches) in enumerate(children):
        inner, raised = expected(grandchildren, depth + 2)
        left = raised if raised and not catches else error.__name__ if error else ""
        lines += ["  " * (depth + 1) + f"stage n{number} {number}" + (f" ! {left}" if left else ""), *inner]
        if left:
            break
    return ["  " * depth + "run inner" + (f" ! {left}" if left else ""), *lines], left


ERRORS = st.none() | st.none() | st.sampled_from([ValueError, KeyboardInterrupt, SystemExit])
TREES = st.recursive(st.just([]), lambda inner: st.lists(st.tuples(inner, ERRORS, st.booleans()), max_size=3))


@settings(max_examples=300)
@given(TREES)
def test_events_nest_like_brackets_whatever_raises(new_log, tree):
    log, left = new_log(), ""
    try:
        run_observed(tree, log)
    except BaseException as error:
        left = type(error).__name__
    assert log.open == []
    assert (log.lines, left) == expected(tree)


@pytest.fixture
def broken(log):
    """An observer that fails at the event of a number."""

    class Broken(type(log)):
        def __init__(self, at, where):
            super().__init__()
            self.at, self.where, self.events = at, where, 0

        def begin(self, *event):
            self.fail("begin")
            super().begin(*event)

        def end(self, error=None):
            self.fail("end")
            super().end(error)

        def fail(self, where):
            self.events += 1
            if self.events == self.at and where == self.where:
                raise RuntimeError("observer")

    return Broken


@pytest.mark.parametrize(("at", "where"), [(1, "begin"), (2, "begin"), (3, "begin"), (4, "end"), (5, "end")])
def test_observer_that_raises_is_dropped_and_never_alters_the_run(broken, log, doubler, caplog, at, where):
    pipeline = Pipeline({"doubler": doubler}, result="doubled").add(double)
    one = broken(at, where)
    with pipeline.observe(one), pipeline.observe(log), caplog.at_level(logging.ERROR):
        assert pipeline.run(number=4) == 8
    assert one.events == at
    assert [record.getMessage().split(" while")[0] for record in caplog.records] == ["Broken raised"]
    assert (len(log.lines), log.open) == (3, [])


def test_dropped_observer_is_told_again_in_the_next_run(broken, doubler):
    pipeline = Pipeline({"doubler": doubler}).add(double)
    one = broken(2, "begin")
    with pipeline.observe(one):
        pipeline.run(number=4)
        one.open.clear()
        one.lines.clear()
        pipeline.run(number=4)
    assert [line.strip() for line in one.lines] == [
        "run pipeline", "stage double 0", "component call doubler.forward",
    ]  # fmt: skip


def test_observer_hears_the_stages_own_error_though_another_observer_raised(broken, log):
    pipeline = Pipeline().add(stage(fails), name="fails")
    with pipeline.observe(broken(3, "end")), pipeline.observe(log), pytest.raises(ValueError, match="own") as caught:
        pipeline.run()
    assert caught.value.__context__ is None
    assert log.lines[1] == "  stage fails 0 ! ValueError"


def test_closed_subscription_is_told_nothing(log):
    pipeline = Pipeline().add(stage(lambda: None), name="a")
    subscription = pipeline.observe(log)
    pipeline.run()
    subscription.close()
    subscription.close()
    pipeline.run()
    assert log.lines == ["run pipeline", "  stage a 0"]


def test_subscription_ends_with_its_block_whatever_raises(log):
    pipeline = Pipeline().add(stage(fails), name="fails")
    with pytest.raises(ValueError, match="own"), pipeline.observe(log):
        pipeline.run()
    with pytest.raises(ValueError, match="own"):
        pipeline.run()
    assert len(log.lines) == 2


def test_two_subscriptions_of_one_observer_end_on_their_own(log):
    pipeline = Pipeline().add(stage(lambda: None), name="a")
    first, second = pipeline.observe(log), pipeline.observe(log)
    first.close()
    pipeline.run()
    assert log.lines == ["run pipeline", "  stage a 0"]
    second.close()


def test_observer_that_comes_during_a_run_is_told_of_the_next(log):
    pipeline = Pipeline().add(stage(lambda: subscriptions.append(pipeline.observe(log))), name="a")
    subscriptions = []
    pipeline.run()
    assert log.lines == []
    pipeline.run()
    assert log.lines == ["run pipeline", "  stage a 0"]


def test_what_is_told_is_told_to_all_observers(log):
    other = type(log)()
    pipeline = Pipeline()
    with pipeline.observe(log), pipeline.observe(other):
        pipeline.tell.begin(Kind.TRANSFER, "vae", nbytes=1024)
        pipeline.tell.end()
    assert log.lines == other.lines == ["transfer vae 1024 bytes"]
