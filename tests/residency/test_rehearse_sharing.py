"""Equal calls are traced once, and no frame of a rehearsal shows it: all are those of one that traces each call."""

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reslab import ltx2
from reslab.residency import blank, blanks, rehearse
from reslab.stages import Pipeline, stage

torch.set_num_threads(1)


def alone(pipe, **request):
    return rehearse(pipe, share_blocks=False, **request)


def pipeline(model, **more):
    """Build a pipeline of one call of a model."""
    return Pipeline({"model": model} | more, result="y").add(stage(lambda model, x: {"y": model(x)}, writes="y"))


def assert_same(shared, each):
    """All frames are equal, and by them operations, their order, their blocks, and peaks."""
    peaks = ("component", "method", "flops", "host_operations", "activation_peak_bytes", "workspace_bytes")
    assert shared.traces.select(peaks).rows() == each.traces.select(peaks).rows()
    assert shared == each


class Resnet(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Transformer(torch.nn.Module):
    """Ten blocks, enclosed as those of a U-Net are, with work of its own before and after."""

    def __init__(self, width):
        super().__init__()
        self.inside, self.outside = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.blocks = torch.nn.ModuleList(Resnet(width) for _ in range(10))

    def forward(self, x):
        y = self.inside(x)
        for block in self.blocks:
            y = block(y)
        return self.outside(y) + x


class UNet(torch.nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.attentions = torch.nn.ModuleList(Transformer(width) for _ in range(3))

    def forward(self, x):
        for attention in self.attentions:
            x = attention(x)
        return x


def test_a_module_that_encloses_blocks_keeps_their_segments_when_it_is_called_again():
    pipe, rows, width = pipeline(UNet()), 4, 16
    shared = rehearse(pipe, x=torch.ones(rows, width))
    block, around = 2 * rows * width * 2 * width * 2, 2 * 2 * rows * width * width
    assert shared.total_flops == 3 * (10 * block + around)
    assert_same(shared, alone(pipe, x=torch.ones(rows, width)))
    segments = shared.segments.filter(shared.segments["block"] >= 0)
    assert segments["block"].to_list() == list(range(30))
    assert segments["path"].to_list()[::10] == [f"attentions.{place}.blocks.0" for place in range(3)]


class Enclosing(torch.nn.Module):
    """A block whose first act is to call equal modules inside it."""

    def __init__(self, width):
        super().__init__()
        self.parts = torch.nn.ModuleList(Resnet(width) for _ in range(3))
        self.last = torch.nn.Linear(width, width)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return torch.tanh(self.last(x))


class Stack(torch.nn.Module):
    def __init__(self, kind, count=8, width=8):
        super().__init__()
        self.blocks = torch.nn.ModuleList(kind(width) for _ in range(count))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_equal_modules_within_a_block_do_not_take_over_its_own_operations():
    pipe, rows, width = pipeline(Stack(Enclosing)), 4, 8
    shared = rehearse(pipe, x=torch.ones(rows, width))
    assert shared.total_flops == 8 * (3 * 2 * 2 * rows * width * 2 * width + 2 * rows * width * width)
    assert_same(shared, alone(pipe, x=torch.ones(rows, width)))


class Remembering(torch.nn.Module):
    """Replaces what it kept of the last call in a list that it is given, as a video decoder's convolutions do."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)

    def forward(self, x, kept, place):
        before, kept[place[0]] = kept[place[0]], torch.tanh(x)
        place[0] += 1
        del before
        return self.layer(self.layer(x))


class Decoder(torch.nn.Module):
    def __init__(self, width=64, chunks=4):
        super().__init__()
        self.blocks, self.chunks = torch.nn.ModuleList(Remembering(width) for _ in range(8)), chunks

    def forward(self, x):
        kept = [None] * len(self.blocks)
        for _ in range(self.chunks):
            place = [0]
            for block in self.blocks:
                x = block(x, kept, place)
        return x


def test_what_a_block_replaces_in_a_list_is_not_held_while_it_runs():
    pipe = pipeline(Decoder())
    request = {"x": torch.ones(512, 64)}
    shared, size = rehearse(pipe, **request), 4 * 512 * 64
    # eight kept, the argument of the call, the first layer's result and the second's
    assert shared.traces["activation_peak_bytes"].item() == (8 + 3) * size
    assert_same(shared, alone(pipe, **request))


class Caching(torch.nn.Module):
    """Keeps a result in itself, and what it counts."""

    def __init__(self, width):
        super().__init__()
        self.layer, self.cache = torch.nn.Linear(width, width), None

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.tanh(x)
        return self.layer(x) + self.cache


class Viewing(torch.nn.Module):
    """Hands on a look at what it is given; a second time from another place of it."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)

    def forward(self, x):
        return x[: len(x) // 2] if len(x) > 1 else self.layer(x)


class Twins(torch.nn.Module):
    """Hands on the first of two arguments, which may be one."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)

    def forward(self, x, y):
        return x, self.layer(y)


class Halves(torch.nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.views = torch.nn.ModuleList(Viewing(width) for _ in range(2))
        self.twins = torch.nn.ModuleList(Twins(width) for _ in range(2))
        for part in (*self.views, *self.twins):
            part.inner = torch.nn.Sequential(torch.nn.Identity())

    def forward(self, x):
        first, second = self.views[0](x[:4]), self.views[1](x[4:])
        same, _ = self.twins[0](first, first)
        kept, _ = self.twins[1](torch.tanh(torch.cat([x] * 9))[: len(same)], torch.tanh(second))
        del x, first, second, same
        return torch.cat([kept] * 9)  # the larger one is alive, since `kept` is a look at it


class Known(torch.nn.Module):
    """Hands on numbers that it knows, which its caller reads."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(width, width))

    def forward(self, x):
        return self.layer(x), torch.arange(3)


class Reading(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Known(width) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x, places = block(x)
            x = x * int(places.sum())
        return x


class Filling(torch.nn.Module):
    """Writes into a table that it is given, and appends to a list."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(width, width))

    def forward(self, x, table, seen):
        table.add_(1)
        seen.append(self.layer(x))
        return seen[-1] if table.sum() < 12 else x


class Collecting(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Filling(width) for _ in range(5))

    def forward(self, x):
        table, seen = torch.zeros(4), []
        for block in self.blocks:
            x = block(x, table, seen)
        return torch.cat(seen)


@pytest.mark.parametrize("make", [lambda: Stack(Caching), Halves, Reading, Collecting])
def test_what_a_block_keeps_hands_on_or_changes_is_the_same_where_it_is_shared(make):
    models = make(), make()
    request = {"x": torch.ones(8, next(models[0].parameters()).shape[0])}
    assert_same(rehearse(pipeline(models[0]), **request), alone(pipeline(models[1]), **request))


class Plus:
    """What a block computes with, as a processor of attention is."""

    def __init__(self, times):
        self.times = times

    def __call__(self, layer, x):
        for _ in range(self.times):
            x = layer(x)
        return x


class Processed(torch.nn.Module):
    def __init__(self, processor):
        super().__init__()
        self.layer, self.processor = torch.nn.Linear(8, 8), processor

    def forward(self, x):
        return self.processor(self.layer, x)


def thrice(layer, x):
    return layer(layer(layer(x)))


def once(layer, x):
    return layer(x)


@pytest.mark.parametrize("given", [(Plus(1), Plus(3)), (once, thrice)], ids=["of one class", "functions"])
def test_blocks_that_compute_with_other_objects_are_not_equal(given):
    model = torch.nn.Sequential(*(Processed(each) for each in given for _ in range(2)))
    assert rehearse(pipeline(model), x=torch.ones(2, 8)).total_flops == 2 * (1 + 3) * 2 * 2 * 8 * 8


class Failing(torch.nn.Module):
    """Fails in its last block in one of many ways."""

    def __init__(self, way, width=8):
        super().__init__()
        self.blocks = torch.nn.ModuleList([*(Resnet(width) for _ in range(8)), Breaking(way)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Breaking(torch.nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.part = way, torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.way(self.part(x))


FAILURES = {
    "shapes": lambda x: x @ torch.ones(3, 3),
    "a number": lambda x: x * x.sum().item(),
    "no cost": lambda x: torch.fft.rfft(x).abs(),
    "an interrupt": lambda x: interrupt(),
}


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("way", FAILURES)
def test_after_a_rehearsal_that_fails_all_is_what_it_was(way):
    model = Failing(FAILURES[way])
    pipe = pipeline(model)
    before = [(vars(each), dict(vars(each))) for each in model.modules()]
    inner = [(own, dict(own)) for part in model.modules() for own in (part._parameters, part._buffers, part._modules)]
    with pytest.raises((RuntimeError, ValueError, KeyboardInterrupt)):
        rehearse(pipe, x=torch.ones(2, 8))
    assert all(now == was for now, was in before)
    assert pipe.execution_device is None
    assert all(now[name] is was[name] for now, was in inner for name in was)
    model.blocks[-1].way = torch.tanh
    assert rehearse(pipe, x=torch.ones(2, 8)).total_flops == 2 * 2 * (8 * 2 * 8 * 16 + 8 * 8)
    assert torch.equal(pipe.run(x=torch.ones(2, 8)), model(torch.ones(2, 8)))


class Leaf(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(layers))

    def forward(self, x, kept):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class Nest(torch.nn.Module):
    """Equal modules inside, called in one of many ways."""

    def __init__(self, members, ways):
        super().__init__()
        self.members, self.ways = torch.nn.ModuleList(members), ways
        if "own" in ways:
            self.own = torch.nn.Linear(4, 4)

    def forward(self, x, kept):
        held, rows = [], len(x)
        if "own" in self.ways:
            x = self.own(x)
        for member in self.members:
            x = self._called(member, torch.cat([x, x]) if "grows" in self.ways else x, kept)[:rows]
            held += [x] if "holds" in self.ways else []
        return sum(held, x)

    def _called(self, member, x, kept):
        before = x
        for _ in range(2 if "twice" in self.ways else 1):
            x = member(x, kept)
        if "keeps" in self.ways:
            kept[len(self.members) % len(kept)] = torch.tanh(x)
        return x + before if "residual" in self.ways else x


class Root(torch.nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, x):
        kept = [None] * 3
        for member in self.members:
            x = member(x, kept)
        return x


WAYS = st.sets(st.sampled_from(["own", "grows", "holds", "twice", "keeps", "residual"]))
SPECS = st.recursive(
    st.integers(1, 2), lambda inner: st.tuples(inner, st.sampled_from([1, 2, 3, 8]), WAYS), max_leaves=3
)


def built(spec):
    if isinstance(spec, int):
        return Leaf(spec)
    inner, count, ways = spec
    return Nest([built(inner) for _ in range(count)], ways)


def modules(spec):
    return 1 if isinstance(spec, int) else 1 + spec[1] * (2 if "twice" in spec[2] else 1) * modules(spec[0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(specs=st.lists(SPECS, min_size=1, max_size=3), count=st.sampled_from([1, 2, 8]), rows=st.integers(1, 3))
def test_random_nestings_of_repeated_blocks_count_the_same_where_they_are_shared(specs, count, rows):
    specs = [spec for spec in specs if modules(spec) <= 60]
    model = Root([built(spec) for spec in specs for _ in range(count)])
    pipe, request = pipeline(model), {"x": torch.ones(rows, 4)}
    assert_same(rehearse(pipe, **request), alone(pipe, **request))


SMALL = {
    "FLUX.1-dev": {"width": 128, "height": 128, "num_inference_steps": 1},
    "Qwen-Image": {"width": 128, "height": 128, "num_inference_steps": 2},
    "SDXL": {"width": 128, "height": 128, "num_inference_steps": 1},
    "Wan2.2-T2V-A14B": {"width": 64, "height": 64, "num_frames": 17, "num_inference_steps": 2, "guidance_scale": 1.0},
}


# of diffusers' own SDXL pipeline and its scheduler
@pytest.mark.filterwarnings("ignore:.*upcast_vae.*:FutureWarning", "ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("name", blanks())
def test_every_shipped_model_counts_the_same_where_blocks_are_shared(name):
    request = {"prompt": "a heron over a weir"} | SMALL[name]
    assert_same(rehearse(blank(name), **request), alone(blank(name), **request))


@pytest.mark.parametrize("compose", [ltx2.one_stage, ltx2.two_stage])
@pytest.mark.parametrize("name", [variant.name for variant in ltx2.variants()])
def test_every_tiny_variant_counts_the_same_where_blocks_are_shared(name, compose):
    pipe = compose(ltx2.load("tiny", variant=name))
    pipe.progress = False
    steps = {} if "distilled" in name else {"num_inference_steps": 2}
    request = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9} | steps
    assert_same(rehearse(pipe, **request), alone(pipe, **request))


def test_a_tiny_stock_video_decoder_counts_the_same_where_blocks_are_shared():
    vae = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    pipe = Pipeline({"vae": vae}, result="y")
    pipe.add(stage(lambda vae, z: {"y": vae.decode(z, return_dict=False)[0]}, writes="y"), name="decode")
    request = {"z": torch.ones(1, 4, 6, 8, 8)}
    assert_same(rehearse(pipe, **request), alone(pipe, **request))
