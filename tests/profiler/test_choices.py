"""Arguments that choose: each value has a sentence, and another value is refused with those that there are."""

import pytest

from reslab.profiler import ComparedTime, Look
from reslab.profiler.toy import Offload, Toy


@pytest.mark.parametrize("choice", [ComparedTime, Look, Offload])
def test_each_value_has_a_sentence_of_its_own(choice):
    sentences = {member.doc for member in choice}
    assert len(sentences) == len(choice)
    assert all(sentence.endswith(".") for sentence in sentences)


def test_an_unknown_offload_is_refused():
    with pytest.raises(ValueError, match="offload is one of 'conductor', 'hook'; got 'hooks'"):
        Toy(offload="hooks")


def test_each_offload_moves_the_same_weights():
    resident = {offload: dict(toy.counters()) for offload in Offload if (toy := Toy(offload=offload)).profile()}
    assert resident[Offload.CONDUCTOR]["device/vae"] == resident[Offload.HOOK]["device/vae"] == 2 * 2**30
