"""Rehearsals of diffusers' modular compositions count what a real run does, or say in one RehearsalError why not."""

from contextlib import nullcontext
from importlib import util
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from reslab.residency import RehearsalError, rehearse
from reslab.stages import Kind

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
