"""GroupSampler: the answers of sampled completions, measures, and predictions of every readout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from builders import png
from PIL import Image

from rapo.answers.parse import format_completion
from rapo.answers.readout import SYMBOLS, AnswerTree
from rapo.config import load_config
from rapo.errors import ImageError
from rapo.inference.sampler import GroupSampler
from rapo.inference.types import Completion, ReadoutResult
from rapo.policy.processing import PolicyProcessor
from rapo.records import ImageRecord

RECORD = ImageRecord("a", "scenes", "train", 0.5, 0.5, (0.0, 1.0), data=png())


def sampler_of(folder: Path, *overrides: str) -> GroupSampler:
    processor = PolicyProcessor(folder)
    return GroupSampler(
        processor,
        load_config(None, list(overrides)),
        lambda image, key: processor.family.encode(processor, image, key, NoRender()),
    )


class NoRender:
    """The family encodes its images itself."""

    def __init__(self) -> None:
        self.compared: set[tuple[int, ...]] = set()

    def __call__(self, prompt_ids: list[int], image: Image.Image, key: str) -> NoReturn:
        raise AssertionError("vLLM's processor was called")


def completion(processor: PolicyProcessor, text: str, reason: str = "stop") -> Completion:
    """The tokens of `text`; the log-probs of the answers' tokens at token i are all -i."""
    ids = processor.encode_completion(text).astype(np.int32)
    symbols = np.repeat(-np.arange(len(ids), dtype=np.float32)[:, None], len(processor.answer_tokens.read), axis=1)
    return Completion(ids, np.zeros(len(ids), np.float32), reason, np.zeros(len(ids), np.int32), symbols)


def test_a_path_is_not_opened(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with pytest.raises(ImageError, match="a came without its bytes"):
        sampler_of(tiny_model).prepare(replace(RECORD, data=None, path=tmp_path / "a.png"))


@pytest.mark.parametrize(("model", "length"), [("tiny_model", 4), ("joined_model", 3)])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (format_completion("the light is even; ", 0.73), "0.73"),
        (format_completion("", 1.0), "1.00"),
        ("<think>a 0.55 of light</think><answer>0.20</answer>", "0.20"),
        ("<think>the light is even; </think><answer>0.734</answer>", "0.73"),
        ("<think>the light is even; </think><answer>0.7</answer>", None),
        ("<think>the light is even; </think><answer> 0.70</answer>", None),
        ("<think>about 0.70</think>", None),
        ("<answer>1.50</answer>", None),
        ("", None),
    ],
)
def test_the_answer_is_found_where_it_stands(
    request: pytest.FixtureRequest, model: str, length: int, text: str, answer: str | None
) -> None:
    sampler = sampler_of(request.getfixturevalue(model))
    processor = sampler._processor
    made = completion(processor, text)
    group = sampler.group(RECORD, 3, sampler.prepare(RECORD), [made, made])
    assert group.answers is not None
    (node, again) = group.answers
    if answer is None:
        assert node is again is None
        return
    assert node is not None
    assert node.text == answer
    assert processor.decode(made.token_ids[node.start : node.start + length]) == answer
    assert processor.decode(made.token_ids[: node.start]).endswith("<answer>")
    assert node.logprobs[:, 0].tolist() == [-float(node.start + i) for i in range(length)]


def test_decimals_one_by_one_are_no_answer_where_the_tokenizer_joins_them(joined_model: Path) -> None:
    """Their log-probs say nothing of the pairs'."""
    sampler = sampler_of(joined_model)
    tokens, made = sampler._processor.answer_tokens, completion(sampler._processor, format_completion("", 0.5))
    at = made.token_ids.tolist().index(tokens.pairs[50])
    apart = [*made.token_ids[:at], *tokens.ids("50"), *made.token_ids[at + 1 :]]
    other = replace(made, token_ids=np.array(apart, np.int32), symbols=np.zeros((len(apart), 112), np.float32))
    group = sampler.group(RECORD, 0, sampler.prepare(RECORD), [made, other])
    assert group.answers is not None
    assert group.answers[0] is not None
    assert group.answers[1] is None


def test_answers_and_measures_come_where_the_run_uses_them(tiny_model: Path) -> None:
    paper = ("rapo.loss.answer=policy_gradient", "rapo.reward.score=sampled", "rapo.reward.weight_grounded=0")
    plain, full = sampler_of(tiny_model, *paper), sampler_of(tiny_model, "rapo.reward.weight_grounded=1")
    made = completion(plain._processor, format_completion("", 0.5))
    without = plain.group(RECORD, 0, plain.prepare(RECORD), [made, made])
    assert (without.answers, without.measured) == (None, None)
    assert not plain.training.sampling.symbols
    group = full.group(RECORD, 0, full.prepare(RECORD), [made, made])
    assert full.training.sampling.symbols
    assert group.measured is not None
    assert group.measured.shape == (5,)
    assert bool(((group.measured >= 0) & (group.measured <= 1)).all())


def test_predictions_are_those_of_the_readout(tiny_model: Path) -> None:
    expected, greedy = sampler_of(tiny_model), sampler_of(tiny_model, "evaluate.readout=greedy")
    made = completion(expected._processor, format_completion("the light is even; ", 0.75))
    tree = AnswerTree()
    for node in ("", "0", "0.", "0.7"):
        row = np.full(len(SYMBOLS), -40.0)
        row[SYMBOLS.index({"": "0", "0": ".", "0.": "7", "0.7": "1"}[node])] = -1e-9
        tree.learn(node, row)
    one = expected.prediction(RECORD, ReadoutResult((made,), tree, 0, 0.0, 0.0))
    assert (one.score, one.readout, one.forced) == (pytest.approx(0.71), "expected", False)
    assert one.std == pytest.approx(0.0, abs=1e-6)
    assert (expected.predicting.tree, greedy.predicting.tree) == (True, False)
    other = greedy.prediction(RECORD, ReadoutResult((made,), None, 0, 0.0, 0.0))
    assert (other.score, other.readout, other.std) == (0.75, "greedy", None)
    cut = completion(expected._processor, "<think>the light is even; ", "length")
    lost = greedy.prediction(RECORD, ReadoutResult((cut,), None, 0, 0.0, 0.0))
    assert (lost.score, lost.reason) == (None, "truncated")
    forced = expected.prediction(RECORD, ReadoutResult((cut,), tree, 0, 0.0, 0.0, closed="the light is even;"))
    assert (forced.score, forced.forced) == (pytest.approx(0.71), True)
