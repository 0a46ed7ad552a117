"""A conductor is called around each stage and component call, and may make a stage's call again."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from reslab.stages import Kind, Pipeline, PipelineError, stage


@stage(writes="doubled")
def double(number, doubler):
    return doubler.forward(number)


def test_conductor_is_called_around_each_stage_and_component_call(conductor, doubler):
    pipeline = Pipeline({"doubler": doubler}, result="doubled").add(double, name="a").add(double, name="b")
    with pipeline.conduct(conductor):
        assert pipeline.run(number=4) == 8
    assert conductor.calls == ["a", "doubler.forward", "b", "doubler.forward"]


def test_conductor_is_called_no_more_when_closed(conductor, doubler):
    pipeline = Pipeline({"doubler": doubler}, result="doubled").add(double)
    pipeline.conduct(conductor).close()
    assert pipeline.run(number=4) == 8
    assert conductor.calls == []


def test_second_conductor_is_refused_until_the_first_is_closed(conductor):
    pipeline = Pipeline()
    first = pipeline.conduct(conductor)
    with pytest.raises(PipelineError, match="conducted by Sure already; close that first"):
        pipeline.conduct(type(conductor)())
    first.close()
    with pipeline.conduct(type(conductor)()):
        first.close()
        with pytest.raises(PipelineError, match="already"):
            pipeline.conduct(conductor)


def test_conductor_decides_what_a_component_call_returns(conductor, doubler):
    class Plus(type(conductor)):
        def component_call(self, component, method, call):
            return call() + 100

    pipeline = Pipeline({"doubler": doubler}, result="doubled").add(double)
    with pipeline.conduct(Plus()):
        assert pipeline.run(number=4) == 108


def test_error_passes_through_the_conductor(conductor):
    def fails():
        raise ValueError("own")

    pipeline = Pipeline().add(stage(fails), name="fails")
    with pipeline.conduct(conductor), pytest.raises(ValueError, match="own") as caught:
        pipeline.run()
    assert caught.value.__notes__ == ["in the stage 'fails' (1 of 1) of 'pipeline'"]


def test_execution_device_is_the_conductors(conductor):
    pipeline = Pipeline()
    assert pipeline.execution_device is None
    conductor.execution_device = torch.device("meta")
    with pipeline.conduct(conductor):
        assert pipeline.execution_device == torch.device("meta")
    assert pipeline.execution_device is None


def test_transfers_begun_by_the_conductor_fall_inside_their_stage(conductor, doubler, log):
    class Moves(type(conductor)):
        def stage(self, stage, call):
            tell(Kind.TRANSFER, "doubler", 1024)
            call()

        def component_call(self, component, method, call):
            tell(Kind.WAIT, "doubler/0")
            return call()

    def tell(kind, name, nbytes=0):
        pipeline.tell.begin(kind, name, nbytes=nbytes)
        pipeline.tell.end()

    pipeline = Pipeline({"doubler": doubler}).add(double)
    with pipeline.observe(log), pipeline.conduct(Moves()):
        pipeline.run(number=4)
    assert log.lines == [
        "run pipeline",
        "  stage double 0",
        "    transfer doubler 1024 bytes",
        "    component call doubler.forward",
        "      wait doubler/0",
    ]


def denoised(scheduler, conductor, *, failures, given):
    """Latents after six steps, of which the last four are a stage that fails in its third as often as is given."""

    def steps(scheduler, generator, latents, first, last):
        nonlocal failures
        for timestep in scheduler.timesteps[first:last]:
            if failures and scheduler.step_index == 4:
                failures -= 1
                raise MemoryError
            noise = torch.randn(8, generator=generator)
            latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
        return latents

    scheduler.set_timesteps(6)
    request, fixed = {"latents": torch.ones(8)}, {}
    (fixed if given else request)["generator"] = torch.Generator().manual_seed(7)
    denoise = stage(writes="latents")(steps)
    pipeline = Pipeline({"scheduler": scheduler}, result="latents")
    pipeline.add(denoise, name="start", given=fixed | {"first": 0, "last": 2})
    pipeline.add(denoise, name="finish", given=fixed | {"first": 2, "last": 6})
    with pipeline.conduct(conductor):
        return pipeline.run(**request)


@pytest.mark.parametrize("given", [False, True], ids=["generator in the request", "generator given to the stage"])
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers' DPM solver under numpy 2
@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_repeated_stage_gives_the_same_bits(kind, given, new_retries):
    undisturbed = denoised(kind(), new_retries(0), failures=0, given=given)
    assert torch.equal(denoised(kind(), new_retries(1), failures=1, given=given), undisturbed)
    assert torch.equal(denoised(kind(), new_retries(3), failures=3, given=given), undisturbed)


def test_repeated_stage_finds_the_values_it_found_first(new_retries):
    def counts(count, generators):
        tries.append((count, [float(torch.rand((), generator=each)) for each in generators]))
        if len(tries) == 1:
            raise MemoryError
        return {"count": count + 1}

    tries = []
    pipeline = Pipeline(result="count").add(stage(counts), name="counts")
    with pipeline.conduct(new_retries()):
        assert pipeline.run(count=1, generators=[torch.Generator().manual_seed(seed) for seed in (1, 2)]) == 2
    assert tries[0] == tries[1]


def test_observers_see_the_repetition_inside_one_stage(log, doubler, new_retries):
    def fails_once(doubler):
        doubler.encode(1)
        if len(calls) == 0:
            calls.append(1)
            raise MemoryError

    calls = []
    pipeline = Pipeline({"doubler": doubler}).add(stage(fails_once), name="once")
    with pipeline.observe(log), pipeline.conduct(new_retries()):
        pipeline.run()
    call = "    component call doubler.encode"
    assert log.lines == ["run pipeline", "  stage once 0", call, call]
