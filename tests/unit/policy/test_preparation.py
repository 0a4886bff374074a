"""Images made ahead of their micro-batches: the same to the last bit, each once, none that is not
needed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from test_trainer import IMAGES, batch_of_groups, share, trainer, weights

from rapo.config import load_config
from rapo.errors import ImageError
from rapo.policy.preparation import Preparation

UIDS = list(IMAGES)


def preparation(processor, *overrides):
    return Preparation(processor, load_config(None, overrides))


@pytest.mark.parametrize("overrides", [(), ("learner.threads=4",), ("learner.gpus=1",)])
def test_what_an_image_becomes_does_not_depend_on_threads(processor, overrides):
    with preparation(processor, *overrides).ahead(IMAGES, UIDS) as images:
        for uid in reversed(UIDS):
            plain = preparation(processor).prepare(IMAGES[uid])
            assert np.array_equal(images[uid].prompt_ids, plain.prompt_ids)
            for name, array in plain.tensors.items():
                assert np.array_equal(images[uid].tensors[name], array)


def test_later_images_are_made_while_an_earlier_one_is_computed(processor):
    made = preparation(processor, "learner.gpus=1")
    last = threading.Event()
    prepare = made.prepare

    def observed(image):
        if image == IMAGES[UIDS[-1]]:
            last.set()
        return prepare(image)

    made.prepare = observed
    with made.ahead(IMAGES, UIDS) as images:
        assert images[UIDS[0]]
        assert last.wait(timeout=30), "nobody has asked for it"


@pytest.mark.parametrize("overrides", [(), ("learner.threads=2",)])
def test_an_image_is_prepared_once_and_kept(processor, overrides):
    made, asked = preparation(processor, *overrides), []
    prepare = made.prepare

    def counted(image):
        asked.append(image)
        return prepare(image)

    made.prepare = counted
    with made.ahead(IMAGES, [*UIDS, *UIDS]) as images:
        first = [images[uid] for uid in (*UIDS, *UIDS)]
    with made.ahead(IMAGES, UIDS) as images:
        assert images[UIDS[0]] is first[0]
    assert len(asked) == len(UIDS)


def test_an_image_that_does_not_decode_is_an_error_where_it_is_needed(processor):
    broken = {**IMAGES, "b": b"no image"}
    with preparation(processor, "learner.threads=2").ahead(broken, UIDS) as images:
        assert images["a"]
        with pytest.raises(ImageError):
            images["b"]


@pytest.mark.usefixtures("world")
def test_steps_are_the_same_to_the_last_bit_with_and_without_threads(tiny_model):
    found = []
    for threads in (1, 3):
        made = trainer(tiny_model, f"learner.threads={threads}")
        figures = [made.step(share(batch_of_groups(), parts), IMAGES) for parts in (2, 3, 1)]
        found.append((figures, weights(made)))
    (one, before), (other, after) = found
    assert one == other
    assert all(torch.equal(before[name], after[name]) for name in before)
