"""Component calls are seen by wrapping bound methods for the duration of a run, and nothing of it stays."""

import inspect
from contextlib import contextmanager

import pytest
import torch

from reslab.stages import Pipeline, stage


def calls(log):
    return [line.strip() for line in log.lines if "component call" in line or "pass" in line]


def observed(pipeline, log, **inputs):
    with pipeline.observe(log):
        return pipeline.run(**inputs)


def test_forward_encode_and_decode_are_told(log):
    class Vae(torch.nn.Module):
        def encode(self, x):
            return x + 1

        def decode(self, x):
            return x - 1

        def forward(self, x):
            return self.decode(self.encode(x))

    use = stage(writes="y")(lambda vae, x: vae.decode(vae(vae.encode(x))))
    assert observed(Pipeline({"vae": Vae()}, result="y").add(use, name="use"), log, x=3) == 3
    inner = ["component call vae.encode", "component call vae.decode"]
    assert calls(log) == [inner[0], "component call vae.forward", *inner, inner[1]]
    assert [line.index("comp") for line in log.lines if "comp" in line] == [4, 4, 6, 6, 4]


def test_torch_module_is_seen_when_called(log):
    linear = torch.nn.Linear(2, 2)
    use = stage(writes="y")(lambda linear, x: linear(x))
    given = torch.ones(1, 2)
    result = observed(Pipeline({"linear": linear}, result="y").add(use, name="use"), log, x=given)
    assert torch.equal(result, linear(given))
    assert calls(log) == ["component call linear.forward"]


class Encoder(torch.nn.Module):
    """Layers inside a model inside the component, as transformers have them."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda encoder, x: encoder(x), ["forward"]),
        (lambda encoder, x: encoder.model(x), ["model"]),
        (lambda encoder, x: encoder.model[1](encoder.model[0](x)), ["model.0"]),  # a layer without weights needs none
        (lambda encoder, x: encoder.model(encoder(x)), ["forward", "model"]),
    ],
)
def test_a_call_below_the_root_of_a_component_is_told_by_its_path(use, told, log, conductor):
    encoder, given = Encoder(), torch.ones(1, 2)
    before = [dict(vars(part)) for part in encoder.modules()]
    pipeline = Pipeline({"encoder": encoder}, result="y").add(stage(writes="y")(use), name="use")
    with pipeline.conduct(conductor):
        assert torch.equal(observed(pipeline, log, x=given), use(encoder, given))
    assert calls(log) == [f"component call encoder.{method}" for method in told]
    assert conductor.calls == ["use", *(f"encoder.{method}" for method in told)]
    assert [dict(vars(part)) for part in encoder.modules()] == before


def test_a_part_that_fails_is_told_and_afterwards_as_it_was(log):
    encoder = Encoder()
    pipeline = Pipeline({"encoder": encoder}).add(stage(lambda encoder, x: encoder.model(x)), name="use")
    with pytest.raises(RuntimeError):
        observed(pipeline, log, x=torch.ones(1, 3))
    assert calls(log) == ["component call encoder.model ! RuntimeError"]
    assert not any("forward" in vars(part) for part in encoder.modules())


def test_what_is_no_module_is_left_alone(log):
    class Scheduler:
        def set_timesteps(self, steps): ...

        def step(self, x):
            return "forward" in vars(self) or "step" in vars(self)

        def forward(self, x):
            return x

    use = stage(writes="wrapped")(lambda scheduler: scheduler.step(1))
    assert not observed(Pipeline({"scheduler": Scheduler()}, result="wrapped").add(use, name="use"), log)


def test_signature_of_a_wrapped_method_is_kept(log, doubler):
    use = stage(writes="seen")(lambda doubler: inspect.signature(doubler.forward))
    seen = observed(Pipeline({"doubler": doubler}, result="seen").add(use, name="use"), log)
    assert seen == inspect.signature(type(doubler)().forward)
    assert list(seen.parameters) == ["number"]


def test_arguments_and_result_pass_through_unchanged(log, doubler):
    use = stage(writes="y")(lambda doubler: doubler.forward(number=[1]))
    assert observed(Pipeline({"doubler": doubler}, result="y").add(use, name="use"), log) == [1, 1]


def test_component_has_the_attributes_it_had_after_a_run(log, doubler):
    doubler.weight = 3
    observed(Pipeline({"doubler": doubler}).add(stage(lambda doubler: doubler.encode(1) and None), name="a"), log)
    assert vars(doubler) == {"weight": 3}


def test_forward_of_its_own_is_wrapped_and_put_back(log, doubler):
    hooked = doubler.forward = lambda number: 100 + number
    use = stage(writes="y")(lambda doubler: doubler.forward(1))
    assert observed(Pipeline({"doubler": doubler}, result="y").add(use, name="use"), log) == 101
    assert vars(doubler) == {"forward": hooked}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_attributes_are_restored_when_a_stage_raises(log, doubler, error):
    def fails(doubler):
        assert set(vars(doubler)) == {"forward", "encode", "own"}
        raise error

    doubler.own = 1
    with pytest.raises(error):
        observed(Pipeline({"doubler": doubler}).add(stage(fails), name="fails"), log)
    assert vars(doubler) == {"own": 1}


def test_unobserved_run_wraps_nothing(doubler):
    use = stage(writes="seen")(lambda doubler: list(vars(doubler)))
    assert Pipeline({"doubler": doubler}, result="seen").add(use, name="use").run() == []


def test_error_of_a_component_call_is_told_with_it(log):
    class Breaks(torch.nn.Module):
        def forward(self):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        observed(Pipeline({"vae": Breaks()}).add(stage(lambda vae: vae()), name="a"), log)
    assert log.lines[-1] == "    component call vae.forward ! RuntimeError"


def test_component_under_two_names_is_told_under_the_name_that_the_stage_uses(log, doubler):
    use = stage(lambda transformer: transformer.forward(1) and None)
    pipeline = Pipeline({"refiner": doubler, "transformer": doubler}).add(use, name="denoise")
    pipeline.add(use, name="refine", components={"transformer": "refiner"})
    observed(pipeline, log)
    assert calls(log) == ["component call transformer.forward", "component call refiner.forward"]


def test_component_that_its_stage_does_not_name_is_told_under_its_first_name(log, doubler):
    pipeline = Pipeline({"one": doubler, "two": doubler}).add(stage(lambda: doubler.encode(1) and None), name="a")
    observed(pipeline, log)
    assert calls(log) == ["component call one.encode"]


def test_cache_context_is_told_as_a_guidance_pass(log):
    class Transformer(torch.nn.Module):
        @contextmanager
        def cache_context(self, name):
            names.append(name)
            yield

        def forward(self, x):
            return x

    def denoise(transformer):
        for name in ("pred_cond", "pred_uncond"):
            with transformer.cache_context(name):
                transformer(1)

    names = []
    transformer = Transformer()
    observed(Pipeline({"transformer": transformer}).add(stage(denoise), name="denoise"), log)
    assert names == ["pred_cond", "pred_uncond"]
    forward = "component call transformer.forward"
    assert calls(log) == ["guidance pass pred_cond 0", forward, "guidance pass pred_uncond 1", forward]
    assert "cache_context" not in vars(transformer)


def test_cache_context_may_be_entered_by_keyword(log):
    class Transformer(torch.nn.Module):
        @contextmanager
        def cache_context(self, name, reset=False):
            entered.append((name, reset))
            yield

    def denoise(transformer):
        with transformer.cache_context(name="cond"), transformer.cache_context("uncond", reset=True):
            pass

    entered = []
    observed(Pipeline({"transformer": Transformer()}).add(stage(denoise), name="denoise"), log)
    assert entered == [("cond", False), ("uncond", True)]
    assert calls(log) == ["guidance pass cond 0", "guidance pass uncond 1"]


def test_error_inside_a_guidance_pass_ends_it(log):
    class Transformer(torch.nn.Module):
        @contextmanager
        def cache_context(self, name):
            yield

        def forward(self, x):
            return x

    def denoise(transformer):
        with transformer.cache_context("pred_cond"):
            raise RuntimeError("own")

    with pytest.raises(RuntimeError, match="own"):
        observed(Pipeline({"transformer": Transformer()}).add(stage(denoise), name="denoise"), log)
    assert log.lines[-1] == "    guidance pass pred_cond 0 ! RuntimeError"
    assert log.open == []


def test_calls_from_other_threads_are_told(log, doubler):
    from concurrent.futures import ThreadPoolExecutor

    def use(doubler):
        with ThreadPoolExecutor(1) as pool:
            return {"y": pool.submit(doubler.forward, 4).result()}

    assert observed(Pipeline({"doubler": doubler}, result="y").add(stage(use), name="use"), log) == 8
    assert calls(log) == ["component call doubler.forward"]
