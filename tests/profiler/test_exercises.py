"""The checks of notebook 02 know the answers that the notebook gives, and say no to the likely wrong ones."""

import pytest

from reslab.profiler import exercises
from reslab.profiler.toy import Toy


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [("decode_by_the_host", 116, 30), ("first_step_times_thirty", 1160, 1800), ("fewest_repeats", 4, 3)],
)
def test_a_check_tells_right_from_wrong_and_asks_for_what_is_missing(check, right, wrong):
    verdicts = [getattr(exercises, check)(answer) for answer in (right, wrong, ...)]
    assert [verdict.right for verdict in verdicts] == [True, False, None]


def test_the_toy_takes_as_long_as_it_says_and_warms_up_once():
    toy = Toy()
    assert [toy.profile(steps=4).summary().split(";")[0] for _ in range(2)] == ["toy: 170 ms", "toy: 130 ms"]


def test_the_toys_noise_is_small_and_the_same_each_time():
    times = [Toy(noise=0.03, seed=1, warm_up_ms=0).profile().stages()["device_ms"].drop_nulls().to_list() for _ in "ab"]
    assert times[0] == times[1] != [20, 80, 30]
    assert times[0] == pytest.approx([20, 80, 30], rel=0.03)
