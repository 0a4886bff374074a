"""What the tests of `rapo score` share: a scripted scorer, its client, and a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_scorer import FakeScorer, serving

from rapo.client.sync import ScorerClient


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def client(scorer: FakeScorer) -> Iterator[ScorerClient]:
    with serving(scorer) as target, ScorerClient(target, timeout=10, initial_backoff=0.01, max_backoff=0.05) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    for name, content in {
        "b.jpg": "25",
        "a.PNG": "75",
        "deep/er/c.webp": "50",
        "broken.jpg": "x",
        "notes.txt": "10",
        ".hidden.jpg": "10",
    }.items():
        (folder / name).write_text(content)
    return folder
