"""What a plan leaves resident may be anything; what it moves and cannot is refused on entering, by name."""

import pytest
import torch
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from safetensors.torch import save_file

from reslab import ltx2
from reslab.residency import Budget, Plan, PlanError, ResidencyError, apply
from reslab.stages import Pipeline, stage

WIDTH = 32
X = torch.linspace(-1, 1, WIDTH).bfloat16()
PLAIN = 4 * (WIDTH + 1) * WIDTH * 2  # bytes of a model


class Model(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to(torch.bfloat16)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


@stage(writes="z")
def denoise(transformer, x):
    return transformer(transformer(x))


@stage(writes="video")
def decode(vae, z):
    return vae(z)


def make(change):
    """A pipeline whose transformer has been changed, by a function that may return another module."""
    model = Model(0)
    changed = change(model)
    pipeline = Pipeline({"transformer": model if changed is None else changed, "vae": Model(1)}, result="video")
    pipeline.add(denoise())
    pipeline.add(decode())
    return pipeline


def run(pipeline):
    with torch.no_grad():
        return pipeline.run(x=X)


class Wrapped(torch.Tensor):
    """A tensor subclass as quantised weights are: what is stored lies in inner tensors."""

    @staticmethod
    def __new__(cls, stored, scale):
        return torch.Tensor._make_wrapper_subclass(cls, stored.shape, dtype=torch.bfloat16)

    def __init__(self, stored, scale):
        self.stored, self.scale = stored, scale

    def __tensor_flatten__(self):
        return ["stored", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return Wrapped(args[0].stored, args[0].scale)
        plain = [each.stored.bfloat16() * each.scale if isinstance(each, Wrapped) else each for each in args]
        return function(*plain, **kwargs or {})


class Packed(torch.nn.Parameter):
    """A parameter of a class of its own."""


def wrap(model):
    for layer in (model.first, *model.blocks):
        stored = torch.randint(-9, 9, (WIDTH, WIDTH), dtype=torch.int8)
        weight = Wrapped(stored, torch.tensor(0.01, dtype=torch.bfloat16))
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)


def pack(model):
    model.first.weight = Packed(model.first.weight.data, requires_grad=False)


def cast(model):
    apply_layerwise_casting(model, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


def offload(model):
    apply_group_offloading(model, onload_device=torch.device("cpu"), offload_type="leaf_level")


def compile_blocks(model):
    for block in model.blocks:
        block.compile(backend="eager")


KINDS = {
    "compiled": (lambda model: torch.compile(model, backend="eager"), "transformer is compiled by torch.compile"),
    "compiled in place": (lambda model: model.compile(backend="eager"), "transformer is compiled by torch.compile"),
    "compiled blocks": (compile_blocks, r"transformer\.blocks\.0 is compiled by torch\.compile"),
    "cast": (cast, r"transformer\.first is under layerwise casting of diffusers \(its hook 'layerwise_casting'\)"),
    "offloaded": (offload, r"transformer\.first is moved by group offloading of diffusers already"),
    "subclass": (wrap, r"has a weight 'weight' that is quantised or otherwise no plain tensor \(Wrapped\)"),
    "parameter": (pack, r"has a weight 'weight' that is quantised or otherwise no plain tensor \(Packed\)"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    torch._dynamo.reset()
    return KINDS[request.param]


@pytest.mark.parametrize("places", [{}, {"transformer": "resident"}, {"transformer@denoise": "resident"}], ids=str)
def test_what_the_plan_leaves_resident_may_be_anything(kind, places):
    change, _sentence = kind
    pipeline = make(change)
    want = run(pipeline)
    before = {name: (id(each), each.dtype) for name, each in pipeline.components["transformer"].named_parameters()}
    for vae in ("swap", "layerwise", "disk"):
        with apply(pipeline, Plan.of({**places, "vae": vae})) as managed:
            assert all(torch.equal(run(pipeline), want) for _ in range(2))
            assert managed.notes == ()
            assert managed.fetched_bytes["decode"] == PLAIN
            assert dict(managed.table().select("component", "where").iter_rows())["transformer"] == "device"
    after = {name: (id(each), each.dtype) for name, each in pipeline.components["transformer"].named_parameters()}
    assert after == before
    assert torch.equal(run(pipeline), want)


@pytest.mark.parametrize("scope", ["transformer", "transformer@decode"])
def test_what_the_plan_moves_and_cannot_is_refused_on_entering(kind, scope):
    change, sentence = kind
    pipeline = make(change)
    want = run(pipeline)
    for place in ("swap", "layerwise", "disk"):
        managed = apply(pipeline, Plan.of({scope: place}))
        with pytest.raises(ResidencyError, match=sentence + ".*so the plan cannot move it: .*keep it 'resident' in"):
            managed.__enter__()
    assert torch.equal(run(pipeline), want)


def test_what_is_kept_counts_as_what_it_stores():
    pipeline = make(wrap)
    stored = 4 * (WIDTH * WIDTH + 2 + 2 * WIDTH)  # int8, a scale and a bias a layer
    with apply(pipeline, Plan.of({"vae": "swap"}), budget=Budget(device_bytes=stored + PLAIN)) as managed:
        assert managed.workload.components["transformer"].weight_bytes == stored
        run(pipeline)
        assert managed.peak_bytes == stored + PLAIN
    short = apply(pipeline, Plan.of({"vae": "swap"}), budget=Budget(device_bytes=stored + PLAIN - 1))
    with pytest.raises(PlanError, match="does not fit"):
        short.__enter__()


@pytest.mark.parametrize(("plan", "works"), [({"vae": "swap"}, True), ({"transformer": "layerwise"}, False)])
def test_compiling_within_the_block_works_for_what_stays_and_says_what_to_do_for_what_streams(plan, works):
    torch._dynamo.reset()
    pipeline = make(lambda model: None)
    want = run(pipeline)
    with apply(pipeline, Plan.of(plan)):
        assert torch.equal(run(pipeline), want)
        compile_blocks(pipeline.components["transformer"])
        if works:
            assert torch.equal(run(pipeline), want)
        else:
            with pytest.raises(ResidencyError, match=r"blocks\.0 is compiled.*'resident' in every stage.* uncompiled"):
                run(pipeline)
    assert torch.equal(run(pipeline), want)


def test_a_leaner_plan_leaves_alone_what_cannot_be_moved():
    pipeline = make(cast)
    want, failed = run(pipeline), []

    def fail_once(*_arguments):
        failed.append(1)
        if len(failed) == 1:
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")

    pipeline.components["vae"].first.register_forward_pre_hook(fail_once)
    with apply(pipeline, Plan.of(), on_oom="step-down") as managed:
        assert torch.equal(run(pipeline), want)
        assert managed.plan.placement("transformer").kind == "resident"
        assert managed.plan.placement("vae").kind != "resident"


def test_what_is_quantised_and_without_values_is_refused(tmp_path):
    save_file(Model(0).state_dict(), tmp_path / "model.safetensors")
    pipeline = make(pack)
    pipeline.components["transformer"].blocks.to_empty(device="meta")
    files = {"transformer": tmp_path / "model.safetensors"}
    with pytest.raises(ResidencyError, match=r"no plain tensor \(Packed\), so values cannot be brought"):
        apply(pipeline, Plan.of({"vae": "swap"}), files=files).__enter__()


def test_parametrized_layers_move_like_others():
    def change(model):
        for layer in (model.first, *model.blocks):
            torch.nn.utils.parametrizations.weight_norm(layer)

    for place in ("resident", "swap", "layerwise", "disk"):
        pipeline = make(change)
        want = run(pipeline)
        with apply(pipeline, Plan.of({"transformer": place})):
            assert all(torch.equal(run(pipeline), want) for _ in range(2))
        assert torch.equal(run(pipeline), want)


def test_a_cast_transformer_of_ltx_beside_components_that_move():
    pipe = ltx2.two_stage(ltx2.load("tiny", variant="LTX-2.3 distilled"))
    pipe.progress = False
    pipe.components["transformer"].enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    request = {"prompt": "a", "width": 64, "height": 64, "num_frames": 9, "seed": 1}
    want = pipe.run(**request)
    with apply(pipe, Plan.of({"text_encoder": "layerwise", "vae": "swap"})):
        got = pipe.run(**request)
    assert (got.frames == want.frames).all()
