"""The profiler on the real pipeline: names, requests, errors, interrupts, and what it leaves alone."""

from pathlib import Path

import pytest

from reslab.profiler import Profiler, UnequalWorkError, compare, request_facts
from reslab.stages import Pipeline, Stage, stage


class Wait(Stage):
    """Lets time pass, or raises."""

    def __init__(self, clock, ns, error=None):
        super().__init__()
        self.clock, self.ns, self.error = clock, ns, error

    def run(self):
        self.clock.advance(self.ns)
        if self.error is not None:
            raise self.error


def profiled(pipeline, clock, memory=None, **request):
    with Profiler(pipeline, clock=clock, memory=memory) as prof:
        pipeline.run(**request)
    return prof.profile


def test_registered_names_keep_two_stages_of_one_class_apart(clock):
    pipeline = Pipeline(name="lab").add(Wait(clock, 3_000_000), name="load").add(Wait(clock, 1_000_000), name="switch")
    profile = profiled(pipeline, clock)
    assert profile.stages().select("stage", "calls", "host_ms", "registered_names").rows() == [
        ("load", 1, 3.0, ["load"]),
        ("switch", 1, 1.0, ["switch"]),
        ("unattributed", 1, 0.0, []),
    ]
    assert set(profile.spans.filter(kind="stage")["stage_class"]) == {"Wait"}


def test_two_stages_filed_under_one_name_stay_two_rows_and_are_seen_to_be_merged(clock):
    """The reference's rule: A, then A as "B", then B as "b1" files two stages under "B"."""

    class A(Wait):
        pass

    class B(Wait):
        pass

    pipeline = Pipeline(name="lab", profile_names="first-keeps-class")
    pipeline.add(A(clock, 0)).add(A(clock, 3_000_000), name="B").add(B(clock, 1_000_000), name="b1")
    profile = profiled(pipeline, clock)
    stages = profile.spans.filter(kind="stage").select("registered_name", "stage", "stage_class", "host_ns")
    assert stages.rows() == [("A", "A", "A", 0), ("B", "B", "A", 3_000_000), ("b1", "B", "B", 1_000_000)]
    assert profile.stages().select("stage", "calls", "host_ms", "registered_names").rows() == [
        ("A", 1, 0.0, ["A"]),
        ("B", 2, 4.0, ["B", "b1"]),
        ("unattributed", 1, 0.0, []),
    ]


def test_a_name_settled_anew_between_two_runs_is_the_one_that_held_in_each(clock):
    pipeline = Pipeline(name="lab").add(Wait(clock, 1), name="decode")
    with Profiler(pipeline, clock=clock) as prof:
        pipeline.run()
        pipeline.stages["decode"].set_profile_name("Decode it all")
        pipeline.run()
    assert prof.profile.spans.filter(kind="stage")["stage"].to_list() == ["decode", "Decode it all"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_the_record_is_kept_when_a_stage_raises_and_the_pipeline_stays_usable(clock, error):
    pipeline = Pipeline(name="lab").add(Wait(clock, 2), name="first").add(Wait(clock, 5, error), name="second")
    prof = Profiler(pipeline, clock=clock)
    with pytest.raises(type(error)), prof:
        pipeline.run()
    assert prof.profile.spans.select("name", "host_ns", "error").rows() == [
        ("lab", 7, type(error).__name__),
        ("first", 2, None),
        ("second", 5, type(error).__name__),
    ]
    pipeline.stages["second"].error = None
    with prof:
        pipeline.run()
    assert prof.profile.spans["error"].to_list()[3:] == [None, None, None]


def test_nothing_is_recorded_before_or_after(clock):
    pipeline = Pipeline(name="lab").add(Wait(clock, 2), name="only")
    prof = Profiler(pipeline, clock=clock)
    pipeline.run()
    with prof:
        pipeline.run()
    pipeline.run()
    assert prof.profile.spans["name"].to_list() == ["lab", "only"]


def test_a_pipeline_run_inside_a_stage_is_heard_when_asked(clock):
    inner = Pipeline(name="inner").add(Wait(clock, 3), name="decode")

    class Outer(Stage):
        def run(self):
            inner.run()

    outer = Pipeline(name="outer").add(Outer(), name="all")
    with Profiler(outer, clock=clock) as prof, inner.observe(prof):
        outer.run()
    assert prof.profile.spans.select("run", "parent", "name", "stage").rows() == [
        (0, None, "outer", None),
        (0, 0, "all", "all"),
        (1, 1, "inner", None),
        (1, 2, "decode", "decode"),
    ]


def test_the_meta_holds_the_request_without_prompts_and_paths_and_what_was_noted(clock):
    class Read(Stage):
        def run(self, prompt, negative_prompt, width, image, out, seed):
            pass

    pipeline = Pipeline(name="lab").add(Read())
    with Profiler(pipeline, clock=clock) as prof:
        for seed in (1, 1, 2):
            pipeline.run(prompt="a heron", negative_prompt="", width=64, image=b"", out="/home/me/x.mp4", seed=seed)
    prof.note(plan=("swap", 1))
    meta = prof.profile.meta
    assert meta["requests"] == [{"width": 64, "image": "bytes", "seed": seed} for seed in (1, 2)]
    assert meta["plan"] == ["swap", 1]
    assert "heron" not in str(meta)
    assert "/home" not in str(meta)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", "my secret text"),
        ("text", "secret"),  # one word is a prompt, too
        ("caption", "secret"),
        ("anything", "secret, and two words"),
        ("anything", "一只苍鹭秘密secret"),  # letters alone, and no identifier of a program
        ("out", "secret.mp4"),
        ("save_as", "secret.mp4"),
        ("anything", "secret-take-2"),
        ("file_name", "secret"),
        ("anything", "secret" * 6),
        ("anything", {"text": "secret"}),
        ("anything", ["secret"]),
        ("anything", ("secret", 1)),
        ("anything", b"secret"),
        ("anything", Path("secret")),
        ("Prompt", "secret words"),
    ],
)
def test_no_text_of_a_user_gets_into_a_file_under_any_name(clock, tmp_path, name, value):
    @stage
    def read(given): ...

    pipeline = Pipeline(name="lab").add(read, values={"given": name})
    with Profiler(pipeline, clock=clock, memory=None, device=None) as prof:
        pipeline.run(**{name: value})
    prof.profile.save(tmp_path / "run.parquet")
    assert b"secret" not in (tmp_path / "run.parquet").read_bytes()


def test_settings_that_are_texts_are_kept_so_that_two_runs_can_be_told_apart(clock):
    given = {
        "sampler": "euler",
        "decode_audio": "stage 2",
        "output_type": "pt",
        "width": 64,
        "audio": True,
        "cut": None,
    }
    assert request_facts(given) == given


def test_a_text_that_a_stage_declares_as_a_setting_is_kept_and_tells_two_runs_apart(clock):
    draw = stage(lambda how, text: None, text_settings="how")
    pipeline = Pipeline(name="lab").add(draw, name="draw", values={"how": "caption_style"})
    profiles = []
    for style in ("warm/soft, 2 lights", "cold"):
        with Profiler(pipeline, clock=clock, memory=None, device=None) as prof:
            pipeline.run(caption_style=style, text="my secret")
        profiles.append(prof.profile)
    warm, cold = profiles
    assert warm.meta["requests"] == [{"caption_style": "warm/soft, 2 lights", "text": "str"}]
    with pytest.raises(UnequalWorkError):
        compare(warm, cold)


def test_what_is_asked_for_is_kept(clock):
    prof = Profiler(clock=clock).start()
    prof.note(prompt="a heron over a weir", out="my/video.mp4")
    assert (prof.stop().meta["prompt"], prof.profile.meta["out"]) == ("a heron over a weir", "my/video.mp4")


def test_a_saved_file_holds_no_prompt_path_or_host_name(clock, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "my-machine")

    class Read(Stage):
        def run(self, prompt, out):
            raise RuntimeError(f"{prompt} {out}")

    pipeline = Pipeline(name="lab").add(Read())
    with pytest.raises(RuntimeError), Profiler(pipeline, clock=clock) as prof:
        pipeline.run(prompt="a heron", out="/home/me/x.mp4")
    prof.profile.save(tmp_path / "run.parquet")
    content = (tmp_path / "run.parquet").read_bytes()
    assert not [secret for secret in (b"heron", b"home/me", b"my-machine") if secret in content]


def test_the_fingerprint_of_the_work_ignores_seed_and_repetition_and_nothing_else(clock):
    class Read(Stage):
        def run(self, width, seed):
            pass

    def work(names, *requests):
        pipeline = Pipeline(name="lab")
        for name in names:
            pipeline.add(Read(), name=name)
        with Profiler(pipeline, clock=clock) as prof:
            for width, seed in requests:
                pipeline.run(width=width, seed=seed)
        return prof.profile.meta["work"]

    once = work(["a", "b"], (64, 1))
    assert once == work(["a", "b"], (64, 2)) == work(["a", "b"], (64, 1), (64, 3))
    assert once != work(["a", "b"], (128, 1))
    assert once != work(["a"], (64, 1))


def test_the_process_memory_is_read_at_the_borders_by_default(clock):
    pipeline = Pipeline(name="lab").add(Wait(clock, 2), name="only")
    with Profiler(pipeline, clock=clock) as prof:
        pipeline.run()
    assert (prof.profile.spans["allocated_peak_bytes"] > 2**20).all()
    assert prof.profile.memory["pool"].to_list() == ["host"] * 4
