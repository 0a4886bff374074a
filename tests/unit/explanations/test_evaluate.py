"""All measures of a model's explanations, and where the images' attributes come from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from builders import png

from rapo.aescot.measure import measure
from rapo.answers.parse import format_completion
from rapo.config import ImageConfig
from rapo.explanations.attributes import ImageAttributes, image_attributes
from rapo.explanations.evaluate import Standard, evaluate_explanations
from rapo.explanations.reader import fit_reader
from rapo.images.decode import decode_image
from rapo.records import DIMENSIONS, ImageRecord, Prediction

LIMITS = ImageConfig()


def record(uid: str, data: bytes, attributes: tuple[float, ...] | None = None) -> ImageRecord:
    return ImageRecord(uid, "d", "test", 0.5, 0.5, (0.0, 1.0), data=data, attributes=attributes)


def test_the_data_sets_own_attributes_are_taken_where_every_image_has_them() -> None:
    known = [record("a", b"never read", (0.1, 0.2, 0.3, 0.4, 0.5)), record("b", b"", (0.5, 0.4, 0.3, 0.2, 0.1))]
    found = image_attributes(known, LIMITS)
    assert found.source == "attributes"
    assert found.values.tolist() == [[0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]]


def test_otherwise_all_images_are_measured() -> None:
    data = png(seed=1)
    mixed = [record("a", data, (0.1,) * 5), record("b", data), record("c", b"no image")]
    found = image_attributes(mixed, LIMITS)
    assert found.source == "measured"
    values = measure(np.asarray(decode_image(data)))
    expected = [values[name] for name in DIMENSIONS]
    np.testing.assert_equal(found.values, [expected, expected, [np.nan] * 5])


def test_measures_of_a_list_of_predictions() -> None:
    attributes = np.random.default_rng(0).uniform(size=(6, 5))
    texts = ["superb light, deep shadow", "superb  light,\ndeep shadow", "poor light, flat"] * 2
    made = [Prediction(str(i), "d", 0.5, i / 6, format_completion(text, i / 6)) for i, text in enumerate(texts)]
    made[0] = dataclasses.replace(made[0], score=None, text="<think>superb light, deep shadow</think><answer>")
    critiques = ["superb light", "poor light"] * 20
    reader = fit_reader(critiques, [0.9, 0.1] * 20)
    found = evaluate_explanations(made, Standard(ImageAttributes("attributes", attributes), reader), bootstrap=20)
    json.dumps(found, allow_nan=False)
    assert (found["source"], found["n"]) == ("attributes", 6)
    assert (found["distinct_rationales"], found["distinct"]) == (2, pytest.approx(2 / 6))
    assert found["grounding"]["coverage"] == pytest.approx(0.2)
    assert found["grounding"]["interval"] is not None
    assert found["consistency"]["texts"] == 40
    assert found["consistency"]["srcc"] is not None
    again = evaluate_explanations(made, Standard(ImageAttributes("attributes", attributes), None), bootstrap=20)
    assert again["consistency"]["srcc"] is None
    assert again["grounding"] == found["grounding"]


def test_no_predictions_have_no_figures() -> None:
    found = evaluate_explanations([], Standard(image_attributes([], LIMITS), None))
    json.dumps(found, allow_nan=False)
    assert (found["distinct"], found["grounding"]["mean"], found["consistency"]["srcc"]) == (None, None, None)
