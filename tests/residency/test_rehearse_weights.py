"""Weights as people have them: cast layer by layer, quantised, of subclasses; bytes are those that are stored."""

import subprocess
import sys

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from torch.profiler import ProfilerActivity, profile

from reslab.residency import RehearsalError, rehearse, workload
from reslab.residency._model._storage import component_bytes, stored_bytes
from reslab.stages import Pipeline, stage

torch.set_num_threads(1)

X = torch.ones(4, 256, dtype=torch.bfloat16)
BIAS, WEIGHT = 2 * 256, 2 * 256 * 256  # bytes in bfloat16


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(256, 256, bias=False), torch.nn.Linear(256, 256)

    def forward(self, x):
        return x + self.b(torch.tanh(self.a(x)))


class Model(torch.nn.Module):
    def __init__(self, count=8):
        super().__init__()
        self.first, self.last = torch.nn.Linear(256, 256), torch.nn.Linear(256, 256)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def pipeline(model):
    """Build a pipeline that calls a transformer twice."""
    twice = stage(lambda transformer, x: {"y": transformer(transformer(x))}, writes="y")
    return Pipeline({"transformer": model}, result="y").add(twice, name="denoise")


def component(rehearsal):
    return rehearsal.components.row(0, named=True)


def quantised(make, count=8):
    """Exchange the weights of the blocks for what `make` makes of them."""
    model = Model(count).bfloat16()
    for layer in (layer for block in model.blocks for layer in (block.a, block.b)):
        layer.weight = make(layer.weight.detach())
    return model


def cast(count):
    model = Model(count).bfloat16()
    apply_layerwise_casting(model, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    return model


def allocated_peak(call):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    now = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize("count", [8, 16])
def test_weights_that_are_cast_for_a_call_are_alive_for_that_call_alone(count):
    model = cast(count)
    shared, each = rehearse(pipeline(model), x=X), rehearse(pipeline(model), share_blocks=False, x=X)
    assert shared == each
    # in a block's second layer: its weight in bfloat16 and, when it is cast back, beside it in float8, of which the
    # stored one has gone; half of the bias; the block's argument, the layer's and its result
    peak = WEIGHT + BIAS // 2 + 3 * X.nbytes
    assert shared.traces["activation_peak_bytes"].item() == peak == 137_472
    assert component(shared)["weight_bytes"] == count * (2 * WEIGHT + BIAS) // 2 + 2 * (WEIGHT + BIAS) // 2
    assert dict(workload(shared).activations) == {"denoise": max(shared.calls["live_bytes"]) + peak}
    with torch.no_grad():
        allocated_peak(lambda: model(X))  # a profile does not see weights go that were made before it; these it does
        assert allocated_peak(lambda: model(X)) == pytest.approx(peak, rel=0.01)


def test_what_is_cast_in_a_rehearsal_that_fails_is_what_it_was():
    model = cast(8)
    model.register_buffer("table", torch.ones(4))
    before = {name: (tensor, tensor.dtype) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    model.blocks[3].b.bias = None
    model.blocks[3].b.in_features = "four"
    model.blocks[3].forward = lambda x: model.blocks[3].a(x) @ torch.ones(3, 3)
    with pytest.raises(RuntimeError):
        rehearse(pipeline(model.to("meta")), x=X)
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(after[name].dtype is before[name][1] for name in after)


def test_the_first_rehearsal_of_a_process_counts_what_the_second_does():
    code = """
import torch
from reslab.residency import rehearse
from reslab.stages import Pipeline, stage

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))
    def forward(self, x):
        return torch.tanh(x * self.w)

pipe = Pipeline({"model": Model()}).add(stage(lambda model, x: {"y": model(x)}, writes="y"), name="s")
first, second = (rehearse(pipe, x=torch.ones(1024)) for _ in range(2))
print(first == second, first.traces.select("activation_peak_bytes", "output_bytes").row(0))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True (8192, 4096)\n", done.stderr


class Composed(torch.Tensor):
    """One value a byte and a scale a row, as torchao's and quanto's weights are; computed with as bfloat16."""

    @staticmethod
    def __new__(cls, q, scale):
        return torch.Tensor._make_wrapper_subclass(cls, q.shape, dtype=torch.bfloat16, device=q.device)

    def __init__(self, q, scale):
        self.q, self.scale = q, scale

    def __tensor_flatten__(self):
        return ["q", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["q"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].q, args[0].scale)
        return func(*(cls._whole(each) for each in args), **(kwargs or {}))

    @classmethod
    def _whole(cls, value):
        return (value.q.float() * value.scale).bfloat16() if isinstance(value, cls) else value


def composed(weight):
    scale = weight.float().abs().amax(1, keepdim=True) / 127
    return torch.nn.Parameter(Composed((weight.float() / scale).round().to(torch.int8), scale), requires_grad=False)


def test_a_weight_that_says_what_it_is_made_of_counts_as_that_and_computes_as_it_does():
    rehearsal = rehearse(pipeline(quantised(composed)), x=X)
    inner = 256 * 256 + 4 * 256
    assert component(rehearsal)["weight_bytes"] == 16 * inner + 8 * BIAS + 2 * (WEIGHT + BIAS) == 1_332_224
    assert (component(rehearsal)["dtype"], component(rehearsal)["parameters"]) == ("int8", 18 * 256 * 256 + 10 * 256)
    assert rehearsal.blocks["weight_bytes"].to_list() == [2 * inner + BIAS] * 8
    assert rehearsal.total_flops == 2 * 18 * 2 * 4 * 256 * 256
    assert rehearsal == rehearse(pipeline(quantised(composed)), share_blocks=False, x=X)
    # what a layer makes of its weight is alive for its call: 4 bytes of each element, twice, before the product
    assert rehearsal.traces["activation_peak_bytes"].item() > 2 * 4 * 256 * 256


def test_blocks_with_other_kinds_of_weights_are_not_equal():
    model = quantised(composed)
    model.blocks[5] = Block().bfloat16()
    assert rehearse(pipeline(model), x=X) == rehearse(pipeline(model), share_blocks=False, x=X)


class State:
    def __init__(self, absmax, inner=None):
        self.absmax, self.inner, self.dtype = absmax, inner, torch.bfloat16


class Packed(torch.nn.Parameter):
    """Two values a byte, their scales in an attribute, kernels of its own: as bitsandbytes' are."""

    def __new__(cls, data, state):
        made = torch.Tensor._make_subclass(cls, data, False)
        made.quant_state = state
        return made

    def to(self, *args, **kwargs):
        return self


def packed(weight):
    state = State(torch.ones(1024), State(torch.ones(4)))
    return Packed(torch.zeros(256 * 128, 1, dtype=torch.uint8), state)


def test_a_weight_that_cannot_be_followed_is_one_error_with_component_weight_kind_and_a_way_out():
    bytes_there = 16 * (256 * 128 + 4 * 1024 + 4 * 4) + 8 * BIAS + 2 * (WEIGHT + BIAS)
    pipe = pipeline(quantised(packed))
    with pytest.raises(RehearsalError) as caught:
        rehearse(pipe, x=X)
    text = str(caught.value)
    for part in (
        "'transformer'",
        "blocks.0.a.weight",
        "Packed",
        "15 more",
        "residency.blank",
        f"{bytes_there:,} bytes",
    ):
        assert part in text
    assert all(type(block.a.weight) is Packed for block in pipe.components["transformer"].blocks)


def test_a_component_that_is_not_called_may_have_any_weights_and_they_are_counted():
    pipe = Pipeline({"model": Model().bfloat16(), "beside": quantised(packed)}, result="y")
    pipe.add(stage(lambda model, x: {"y": model(x)}, writes="y"), name="compute")
    sizes = dict(rehearse(pipe, x=X).components.select("component", "weight_bytes").iter_rows())
    assert sizes["beside"] == 16 * (256 * 128 + 4 * 1024 + 4 * 4) + 8 * BIAS + 2 * (WEIGHT + BIAS)


def test_a_composed_weight_with_an_operation_that_nothing_can_cost_is_named():
    class Transforming(Composed):
        @classmethod
        def _whole(cls, value):
            whole = super()._whole(value)
            return torch.fft.rfft(whole.float(), 510).abs().bfloat16() if isinstance(value, cls) else whole

    def make(weight):
        q, scale = torch.zeros(256, 256, dtype=torch.int8), torch.ones(256, 1)
        return torch.nn.Parameter(Transforming(q, scale), requires_grad=False)

    with pytest.raises(RehearsalError, match=r"'transformer'.*blocks\.0\.a\.weight.*Transforming.*_fft_r2c"):
        rehearse(pipeline(quantised(make)), x=X)


def test_a_parameter_with_nothing_but_a_name_of_its_own_is_a_plain_one():
    class Named(torch.nn.Parameter):
        """Changes nothing."""

    rehearsal = rehearse(pipeline(quantised(lambda weight: Named(weight))), x=X)
    assert component(rehearsal)["weight_bytes"] == 18 * WEIGHT + 10 * BIAS


def of_torchao(kind):
    quantization = pytest.importorskip("torchao.quantization")
    model = Model().bfloat16()
    quantization.quantize_(model.blocks, getattr(quantization, kind)())
    return model


def of_quanto():
    quanto = pytest.importorskip("optimum.quanto")
    model = Model().bfloat16()
    quanto.quantize(model.blocks, weights=quanto.qint8)
    quanto.freeze(model.blocks)
    return model


def of_gguf():
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    model, kind = Model().bfloat16(), gguf.GGMLQuantizationType.Q8_0
    for block in model.blocks:
        for name in ("a", "b"):
            plain = getattr(block, name)
            layer = GGUFLinear(256, 256, bias=plain.bias is not None, compute_dtype=torch.bfloat16)
            numbers = gguf.quants.quantize(plain.weight.detach().float().numpy(), kind)
            layer.weight, layer.bias = GGUFParameter(torch.from_numpy(numbers), quant_type=kind), plain.bias
            setattr(block, name, layer)
    return model


PLAIN = 8 * BIAS + 2 * (WEIGHT + BIAS)
REAL = {
    # int8 and float8 values; float32 scales a row, and zero points of a byte
    "torchao int8": (lambda: of_torchao("Int8WeightOnlyConfig"), 16 * (256 * 256 + 4 * 256 + 256) + PLAIN),
    "torchao float8": (lambda: of_torchao("Float8WeightOnlyConfig"), 16 * (256 * 256 + 4 * 256) + PLAIN),
    "quanto int8": (of_quanto, 16 * (256 * 256 + 2 * 256) + PLAIN),  # bfloat16 scales
    "GGUF Q8_0": (of_gguf, 16 * 256 * (256 // 32) * 34 + PLAIN),  # 32 values and a scale of two bytes
}


@pytest.mark.parametrize("name", REAL)
def test_real_quantised_weights_count_what_is_stored(name):
    make, nbytes = REAL[name]
    model = make()
    shared, each = rehearse(pipeline(model), x=X), rehearse(pipeline(model), share_blocks=False, x=X)
    assert component(shared)["weight_bytes"] == nbytes
    assert component(shared)["parameters"] == 18 * 256 * 256 + 10 * 256
    assert shared.total_flops == 2 * 18 * 2 * 4 * 256 * 256
    assert shared == each


def of_bitsandbytes(kind, **more):
    nn = pytest.importorskip("bitsandbytes").nn
    model = Model().bfloat16()
    for block in model.blocks:
        for name in ("a", "b"):
            plain = getattr(block, name)
            layer = getattr(nn, kind)(256, 256, bias=plain.bias is not None, **more)
            layer.load_state_dict(plain.state_dict())
            setattr(block, name, layer)
    return model.to("cpu")


@pytest.mark.parametrize(
    ("kind", "more", "nbytes"),
    [
        ("Linear4bit", {"quant_type": "nf4", "compress_statistics": False}, "862,208"),
        ("Linear4bit", {"quant_type": "nf4", "compress_statistics": True}, "829,760"),
        ("Linear8bitLt", {"has_fp16_weights": False}, "1,336,320"),
    ],
)
def test_bitsandbytes_is_refused_by_name_with_the_bytes_that_are_stored(kind, more, nbytes):
    named = rf"'transformer'.*blocks\.0\.a\.weight \(bitsandbytes's .*\) and 15 more.*stored are {nbytes} bytes"
    with pytest.raises(RehearsalError, match=named):
        rehearse(pipeline(of_bitsandbytes(kind, **more)), x=X)


class Halves(torch.Tensor):
    """A weight that names its two parts, and cannot be rebuilt from them."""

    def __new__(cls, low, high):
        return torch.Tensor._make_wrapper_subclass(cls, (1000,), dtype=torch.float32)

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __tensor_flatten__(self):
        return ["low", "high"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        assert function is torch.ops.aten.detach.default
        return cls(args[0].low, args[0].high)


def test_a_weight_that_names_its_parts_counts_as_them_though_it_cannot_be_rebuilt():
    weight = torch.nn.Parameter(Halves(torch.zeros(3, dtype=torch.int8), torch.zeros(5)), requires_grad=False)
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight = weight
    assert component_bytes(layer) == stored_bytes(weight, layer) == 3 + 4 * 5
