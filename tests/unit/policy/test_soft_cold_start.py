"""The cold start with soft labels for the tokens of the score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import png

from rapo.answers.readout import SYMBOLS
from rapo.config import load_config
from rapo.policy.sft import SupervisedTrainer, soft_targets

pytestmark = pytest.mark.usefixtures("world")

EXAMPLES = (
    ("a", "the light is even; 0.31", 0.31),
    ("b", "colors are dull; ", 0.996),
    ("c", "a balanced composition; ", 0.07),
)


def trainer(model: Path, *settings: str) -> SupervisedTrainer:
    sizes = ("batch_size=3", "warmup_steps=0", "learning_rate=1e-3", "steps=30")
    return SupervisedTrainer(
        str(model), load_config(None, [f"coldstart.{setting}" for setting in (*sizes, *settings)]), world=1
    )


def losses(made: SupervisedTrainer, steps: int) -> list[float]:
    examples = [made.example(png(seed=ord(uid)), text, score) for uid, text, score in EXAMPLES]
    return [made.step(examples) for _ in range(steps)]


def test_labels_stand_at_the_tokens_of_the_score_and_are_distributions(tiny_model: Path) -> None:
    made = trainer(tiny_model, "answer=soft_label")
    examples = [made.example(png(), text, score) for _, text, score in EXAMPLES]
    places, labels = soft_targets(examples, made.processor.answer_tokens, 0.02)
    assert (places.shape, labels.shape) == ((12,), (12, len(SYMBOLS)))
    tokens = np.concatenate([example.target for example in examples])[places.numpy()]
    symbols = made.processor.answer_tokens
    assert [symbols.text(int(token)) for token in tokens] == list("0.311.000.07")
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
    likely = [SYMBOLS[int(place)] for place in labels.argmax(axis=1)]
    assert "".join(likely[:4]) == "0.31"
    assert 0.1 < labels[3, SYMBOLS.index("2")] < 0.4, "its neighbours are likely as well"


@pytest.mark.parametrize(
    ("kind", "packing"), [("tiny_model", "rows"), ("tiny_model", "prefix"), ("joined_model", "rows")]
)
def test_a_narrow_label_is_the_score_itself(kind: str, packing: str, request: pytest.FixtureRequest) -> None:
    model: Path = request.getfixturevalue(kind)
    exact = losses(trainer(model, f"packing={packing}", "answer=exact"), 3)
    narrow = losses(trainer(model, f"packing={packing}", "answer=soft_label", "answer_std=1e-4"), 3)
    wide = losses(trainer(model, f"packing={packing}", "answer=soft_label", "answer_std=0.2"), 3)
    assert narrow == pytest.approx(exact, rel=1e-4)
    assert wide[-1] != pytest.approx(exact[-1], rel=1e-4)
