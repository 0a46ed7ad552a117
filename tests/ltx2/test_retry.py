"""A stage that fails half-way and is made again gives the same bits: what stepping down out of memory rests on."""

import random
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from reslab import ltx2

REQUEST = {"prompt": "a heron", "width": 128, "height": 64, "num_frames": 9, "num_inference_steps": 3, "seed": 7}
IMAGE = PIL.Image.linear_gradient("L").resize((128, 64))


class Fails:
    """Lets stages fail after some of their component calls, in the first step and in a later one, and repeats them."""

    execution_device = None
    may_retry = True

    def __init__(self, seed):
        self.random, self.failed = random.Random(seed), []

    def stage(self, stage, call):
        self.calls, self.failing = 0, {self.random.randint(1, 3), self.random.randint(8, 11)}
        while True:
            try:
                return call()
            except MemoryError:
                self.failed.append(stage.registered_name)

    def component_call(self, component, method, call):
        result, self.calls = call(), self.calls + 1
        if self.calls in self.failing:
            raise MemoryError
        return result


@pytest.fixture(scope="module")
def pipe(tiny_ltx23):
    pipe = ltx2.two_stage(tiny_ltx23)
    pipe.progress = False
    return pipe


@pytest.mark.parametrize("image", [None, IMAGE], ids=["text", "image"])
@pytest.mark.parametrize("seed", range(3))
def test_stages_that_fail_half_way_and_are_repeated_give_the_same_bits(pipe, image, seed):
    undisturbed = pipe.run(**REQUEST, image=image)
    with pipe.conduct(fails := Fails(seed)):
        repeated = pipe.run(**REQUEST, image=image)
    failures = Counter(fails.failed)
    assert (failures["LTX2AVDenoisingStage"], failures["LTX2RefinementStage"]) == (2, 1)
    assert np.array_equal(repeated.frames, undisturbed.frames)
    assert np.array_equal(repeated.audio, undisturbed.audio)
