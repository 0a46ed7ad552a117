"""Rehearsals of diffusers' modular compositions count what a real run does, or say in one RehearsalError why not."""

from contextlib import nullcontext
from importlib import util
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from reslab.profiler import Profiler
from reslab.residency import Plan, RehearsalError, apply, rehearse, workload
from reslab.stages import Kind, Pipeline, stage

spec = util.spec_from_file_location("modular", Path(__file__).parents[1] / "stages" / "test_modular.py")
modular = util.module_from_spec(spec)
spec.loader.exec_module(modular)
small = modular.small  # the fixture

#: Every composition that the tests of stages run: with its blocks that encode a prompt, where it can be.
RUNS = {name: name in modular.texts.PROMPTED for name in modular.models.MODELS}
#: Those whose rehearsal is refused, with what the refusal says.
REFUSED = {
    "Flux3AutoBlocks": r"a text is generated here \(flux3/prompt_upsampler.py:\d+ in upsample_prompt\)",
    "Flux3DistilledAutoBlocks": r"a text is generated here \(flux3/prompt_upsampler.py:\d+ in upsample_prompt\)",
}


#: What torch cannot run in a mode that counts: flex attention.
UNCOUNTED = {"diffusion_decoder.decode"}


class Counter(TorchDispatchMode):
    """Counts the FLOPs of products by the formulas of torch's own counter, whose hooks on modules take far longer."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry and "convolution" not in str(func):
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


class Products:
    """Notes the component calls that no other encloses, each with its FLOPs outside convolutions; an observer."""

    def __init__(self):
        self.calls, self.open = [], []

    def begin(self, kind, name, index=-1, nbytes=0):
        counter = None
        if kind == Kind.COMPONENT and not any(self.open):
            counter = nullcontext() if name in UNCOUNTED else Counter()
            self.calls.append((name, counter))
            counter.__enter__()
        self.open.append(counter)

    def end(self, error=None):
        if counter := self.open.pop():
            counter.__exit__(None, None, None)

    def counted(self):
        return [(name, getattr(counter, "flops", None)) for name, counter in self.calls]


def rehearsed(rehearsal):
    joined = rehearsal.calls.join(rehearsal.traces, on="trace", maintain_order="left")
    name = pl.concat_str(pl.col("component", "method").cast(pl.String), separator=".")
    counted = joined.select(name, pl.col("matmul_flops") + pl.col("attention_flops")).iter_rows()
    return [(name, None if name in UNCOUNTED else flops) for name, flops in counted]


@modular.quiet
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", RUNS)
def test_a_rehearsal_counts_the_calls_and_products_of_the_real_run_or_is_refused(name):
    pipe, request = modular.composed(name, RUNS[name])
    if name in REFUSED:
        with pytest.raises(RehearsalError, match=REFUSED[name]):
            rehearse(pipe, **request)
        return
    rehearsal = rehearse(pipe, **request)
    seen = Products()
    with pipe.observe(seen), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # attention as two products
        pipe.run(**request)
    assert rehearsed(rehearsal) == seen.counted()


def test_tokens_that_the_user_lists_stand_for_a_generated_text(small):
    pipe, request = modular.composed("Flux3AutoBlocks", True)
    rehearsal = rehearse(pipe, answers={"prompt_upsampler.py:upsample_prompt": ([5, 6, 7], "a short text")}, **request)
    assert {"text_encoder", "transformer", "vae"} <= set(rehearsal.calls["component"].cast(pl.String))


class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(8, 4)
        self.layers = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(4, 4)) for _ in range(8))


def test_a_weight_that_is_read_without_a_call_is_refused_by_component_and_path():
    read = stage(lambda reader, x: torch.nn.functional.linear(x, reader.embed.weight))
    with pytest.raises(RehearsalError, match=r"'embed.weight' of 'reader' outside of any call \(.*in <lambda>\)"):
        rehearse(Pipeline({"reader": Reader()}).add(read, name="read"), x=torch.ones(1, 4))


@stage(writes="y")
def by_layers(reader, x):
    for layer in reader.layers:
        x = layer(x)
    return x


def test_calls_of_layers_are_the_same_in_rehearsal_profile_and_engine():
    pipe, x = Pipeline({"reader": Reader()}, result="y").add(by_layers), torch.ones(1, 4)
    rehearsal = rehearse(pipe, x=x)
    plan = Plan.of({"reader": "layerwise"})
    expected = workload(rehearsal, plan)
    calls = [(f"layers.{n}", (n,)) for n in range(8)]
    assert [(call.method, call.blocks) for call in expected.calls] == calls
    with torch.no_grad():
        want = pipe.run(x=x)
        with apply(pipe, plan, known=expected) as managed, Profiler(pipe) as profiler:
            assert torch.equal(pipe.run(x=x), want)
            assert [(call.method, call.blocks) for call in managed.workload.calls] == calls
            assert not managed.notes
    called = profiler.profile.spans.filter(pl.col("kind").cast(pl.String) == Kind.COMPONENT)
    assert set(called["component"].cast(pl.String)) == {"reader"}


def cast(dtype):
    def run(reader, x):
        layer = reader.layers[0]
        with torch.autocast(next(layer.parameters()).device.type, dtype=dtype, enabled=dtype is not None):
            return layer(x)

    return Pipeline({"reader": Reader()}).add(stage(writes="y")(run), name="cast")


def test_autocast_that_is_off_or_changes_nothing_is_followed_and_what_it_would_cast_is_refused():
    plain = rehearse(cast(None), x=torch.ones(1, 4))
    assert plain.total_flops == rehearse(cast(torch.float32), x=torch.ones(1, 4)).total_flops == 2 * 4 * 4
    with pytest.raises(RehearsalError, match="autocast to bfloat16 casts what"):
        rehearse(cast(torch.bfloat16), x=torch.ones(1, 4))


@pytest.mark.parametrize(("masked", "pairs"), [(False, 256 * 256), (True, 3 * 128 * 128)])
def test_flex_attention_is_counted_by_the_blocks_of_its_mask(masked, pairs):
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256, device="cpu") if masked else None

    def attend(reader, x):
        query = reader.layers[0](x)
        return flex_attention.flex_attention(query, query, query, block_mask=mask)

    pipe = Pipeline({"reader": Reader()}).add(stage(writes="y")(attend), name="attend")
    rehearsal = rehearse(pipe, x=torch.ones(1, 2, 256, 4))
    assert rehearsal.glue["flops"].to_list() == [2 * pairs * (4 + 4) * 2]
