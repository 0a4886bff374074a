"""The names that other programs hold to: a change here breaks clients that are already in use."""

from __future__ import annotations

from rapo.answers.readout_names import READOUTS
from rapo.v1 import scorer_pb2
from rapo.wire import DOMAIN, READOUT_NAMES, READOUT_NUMBERS, REASON_KEY, SERVICE


def test_names_of_the_api_stay() -> None:
    assert (SERVICE, DOMAIN, REASON_KEY) == ("rapo.v1.AestheticScorer", "rapo.v1", "rapo-reason")


def test_every_readout_of_the_api_has_one_name() -> None:
    assert READOUT_NAMES == {1: "greedy", 2: "expected", 3: "sampled", 4: "fast"}
    assert sorted(READOUT_NUMBERS) == sorted(READOUTS)
    assert sorted(READOUT_NAMES) == sorted(set(scorer_pb2.Readout.values()) - {scorer_pb2.READOUT_UNSPECIFIED})
