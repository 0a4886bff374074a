"""Readout names: the ways in which a score is taken from the model.

- `expected`: the expectation over the answers that the model might write, after its rationale.
- `fast`: the same without a rationale.
- `greedy`: the answer that the model writes when it always takes the likeliest token.
- `sampled`: the mean of several sampled answers.
"""

from __future__ import annotations

from typing import Literal, get_args

ReadoutName = Literal["expected", "fast", "greedy", "sampled"]

#: All of them, in the order in which a scorer lists them.
READOUTS: tuple[ReadoutName, ...] = get_args(ReadoutName)
