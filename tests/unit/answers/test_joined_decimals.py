"""Readout `expected` with a tokenizer that joins decimals: against brute force over all ways to
write a number, and against a tokenizer of the kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rapo.answers.answer_tokens import CLOSE, NO_RATIONALE, AnswerTokens, answer_tokens
from rapo.answers.readout import ANSWERS, CLOSED, NODES, PAIRS, SYMBOLS, TEXTS, AnswerTree
from rapo.errors import ModelError

TOKENS = (*SYMBOLS, *PAIRS)


def random_model(seed: int, joined: float) -> dict[str, np.ndarray]:
    """Log-probs of each token and of a word behind each node; `joined` is added to the logits of
    pairs."""
    rng = np.random.default_rng(seed)
    found = {}
    for node in NODES:
        logits = 2.0 * rng.normal(size=len(TOKENS) + 1)
        logits[len(SYMBOLS) : -1] += joined
        found[node] = (logits - np.logaddexp.reduce(logits))[:-1]
    return found


def ways(text: str) -> Iterator[tuple[str, ...]]:
    """All ways to write a text in tokens."""
    if not text:
        yield ()
    for token in TOKENS:
        if text.startswith(token):
            yield from ((token, *rest) for rest in ways(text[len(token) :]))


def brute_force(logprobs: dict[str, np.ndarray]) -> np.ndarray:
    """The probability of each answer. A pair leads to the end of an answer, so that what is before
    any token is one of `NODES`, in tokens of one character."""

    def chance(text: str) -> float:
        total = 0.0
        for way in ways(text):
            before = ["".join(way[:place]) for place in range(len(way))]
            if all(node in NODES for node in before):
                steps = zip(before, way, strict=True)
                total += float(np.exp(sum(logprobs[node][TOKENS.index(token)] for node, token in steps)))
        return total

    mass = np.array([chance(text) for text in TEXTS])
    for number, hundredths in [("0", 0), ("1", 100), ("1.0", 100), *((f"0.{d}", 10 * d) for d in range(10))]:
        mass[hundredths] += chance(number + CLOSED)
    return mass


@pytest.mark.parametrize("joined", [-3.0, 0.0, 5.0])
@pytest.mark.parametrize("seed", range(4))
def test_all_ways_to_write_a_number_are_summed(seed: int, joined: float) -> None:
    logprobs = random_model(seed, joined)
    tree = AnswerTree()
    for node in NODES:
        tree.learn(node, logprobs[node])
    mass = brute_force(logprobs)
    assert tree.probabilities() == pytest.approx(mass, abs=1e-14)
    assert tree.expectation().mean == pytest.approx(float(mass @ ANSWERS / mass.sum()), abs=1e-12)
    whole = AnswerTree()
    whole.learn_all(np.stack([logprobs[node] for node in NODES]))
    assert np.array_equal(whole.probabilities(), tree.probabilities())


def test_only_nodes_that_are_reached_by_single_characters_are_missing() -> None:
    """A model that writes pairs is read by the three nodes before them."""
    sure = {"": "0", "0": ".", "0.": "53"}
    tree = AnswerTree()
    for node, token in sure.items():
        assert node in tree.missing()
        tree.learn(node, [0.0 if one == token else -100.0 for one in TOKENS])
    assert tree.missing() == []
    read = tree.expectation()
    assert (read.mean, read.std, read.outside) == (pytest.approx(0.53), pytest.approx(0.0), pytest.approx(0.0))
    assert tree.expectation(held=True).mean == pytest.approx(0.53)


def test_held_to_numbers_a_pair_behind_one_is_left_out() -> None:
    """Of the pairs behind "1." only 00 is a number."""
    logprobs = {node: np.full(len(TOKENS), -100.0) for node in NODES}
    for node, token, chance in [("", "1", 1.0), ("1", ".", 1.0), ("1.", "05", 0.75), ("1.", "00", 0.25)]:
        logprobs[node][TOKENS.index(token)] = np.log(chance)
    tree = AnswerTree()
    tree.learn_all(np.stack([logprobs[node] for node in NODES]))
    assert tree.expectation(held=True).mean == pytest.approx(1.0)
    assert tree.expectation().outside == pytest.approx(0.75)


def tokenizer(digits: str) -> Tokenizer:
    """A byte-level BPE that keeps runs of `digits` in one token, as Llama 3's."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(rf"{digits}|[^\s\p{{L}}\p{{N}}]+|\p{{L}}+|\s+"), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([f"<think></think><answer>{n:03d} {n / 100:.2f}</answer>" for n in range(1000)], trainer)
    return made


def tokens_of(made: Tokenizer) -> AnswerTokens:
    return answer_tokens(lambda text: made.encode(text, add_special_tokens=False).ids)


def test_a_tokenizer_that_joins_up_to_three_digits_is_known() -> None:
    made = tokenizer(r"\p{N}{1,3}")
    tokens = tokens_of(made)
    assert [made.decode([token]) for token in tokens.read] == [*SYMBOLS[:-1], "</", *PAIRS]
    for text in ("0.00", "0.53", "1.00", "0.5", "1"):
        ids = made.encode(f"{NO_RATIONALE}{text}{CLOSE}").ids[len(tokens.no_rationale) :]
        assert ids[: len(tokens.written(text))] == tokens.written(text)
    assert [tokens.text(token) for token in tokens.written("0.53")] == ["0", ".", "53", CLOSED]


def test_a_tokenizer_that_keeps_characters_apart_has_no_pairs() -> None:
    tokens = tokens_of(tokenizer(r"\p{N}"))
    assert (tokens.pairs, tokens.length) == ((), 4)


def test_a_tokenizer_that_joins_the_point_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match="neither digit by digit nor with both decimals"):
        tokens_of(tokenizer(r"[\p{N}.]+"))
