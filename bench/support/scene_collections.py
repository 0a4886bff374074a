"""Collections: rendered scenes in the exact layouts of the paper's five data sets, and critiques of
some in the form of its AesCoT-3K.jsonl.

- File names, columns and scales are those of the published files; images and scores are not.
- The human scores are means of simulated votes. Each collection has raters and images of its own.
- The critiques are those of the rule-based teacher, without its slips.
- PARA and AADB, which the paper only tests on, show another world than the three that it trains on
  (`rapo.datasets.scenes.worlds`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rapo.aescot.measure import measure
from rapo.aescot.writer import write_critique
from rapo.answers.parse import format_completion
from rapo.answers.prompts import SCORE_PROMPT
from rapo.arrays import Floats
from rapo.config import DataConfig
from rapo.datasets.labels import SPLITS
from rapo.datasets.scenes import render_scene
from rapo.datasets.scenes.raters import rate_scene, rater_panel
from rapo.datasets.scenes.worlds import UNSEEN, USUAL, World
from rapo.datasets.sources import read_parts

_RATERS, _QUALITY = 40, 92
CRITIQUES = "AesCoT-3K.jsonl"
_VOTES = np.arange(1, 11)


@dataclass(frozen=True, slots=True)
class _Rated:
    """A rated scene: its number, and the counts `(10,)` of its votes 1 to 10."""

    number: int
    votes: NDArray[np.int64]

    @property
    def score(self) -> float:
        """The mean vote on [0, 1]."""
        return (float(self.votes @ _VOTES) / float(self.votes.sum()) - 1.0) / 9.0


def write_collections(root: Path, train: int, test: int, *, critiques: int = 0, size: int = 84, seed: int = 0) -> None:
    """Write TAD66K, AVA and FLICKR-AES with `train` and `test` images, and PARA and AADB with
    `test` images for testing and a few others. FLICKR-AES has no splits: its images are one list.
    A collection that is there already is kept. `critiques` training images of TAD66K and AVA, half
    of each, get one."""
    writers: dict[str, tuple[World, Callable[[Path, _Scenes], None]]] = {
        "TAD66K": (USUAL, lambda folder, scenes: _tad66k(folder, scenes, train, test)),
        "AVA": (USUAL, lambda folder, scenes: _ava(folder, scenes, train, test)),
        "FLICKR-AES": (USUAL, lambda folder, scenes: _flickr(folder, scenes, train + test)),
        "PARA": (UNSEEN, lambda folder, scenes: _para(folder, scenes, 4, test)),
        "AADB": (UNSEEN, lambda folder, scenes: _aadb(folder, scenes, 4, test)),
    }
    for place, (name, (world, write)) in enumerate(writers.items()):
        if not (root / name).is_dir():
            aside = root / f"{name}.part"
            write(aside, _Scenes(np.random.default_rng([seed, place]), size, world))
            aside.rename(root / name)
    if critiques and not (root / CRITIQUES).is_file():
        _write(root / CRITIQUES, list(_conversations(root, critiques)))


class _Scenes:
    """Renders scenes one after the other."""

    def __init__(self, rng: np.random.Generator, size: int, world: World) -> None:
        self._rng = rng
        self._size = size
        self._world = world
        self._panel: Floats = rater_panel(rng, _RATERS, world)
        self._made = 0

    def render(self, count: int, path_of: Callable[[int], Path]) -> Iterator[_Rated]:
        """Write `count` images, each to the path of its number."""
        for _ in range(count):
            number, self._made = self._made, self._made + 1
            scene = render_scene(self._rng, self._size, self._world)
            path = path_of(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image).save(path, format="JPEG", quality=_QUALITY)
            yield _Rated(number, rate_scene(self._rng, scene.score, self._panel, self._world))


def _write(path: Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join([*lines, ""]).encode())


def _tad66k(folder: Path, scenes: _Scenes, train: int, test: int) -> None:
    for split, count in (("train", train), ("test", test)):
        rows = [
            f"someone{one.number:07d}.jpg,{1 + 9 * one.score:.4f}"
            for one in scenes.render(count, lambda number: folder / "TAD66K" / f"someone{number:07d}.jpg")
        ]
        _write(folder / "merge" / f"{split}.csv", ["image,score", *rows], end="\r\n")


def _ava(folder: Path, scenes: _Scenes, train: int, test: int) -> None:
    rated = list(scenes.render(train + test, lambda number: folder / "images" / f"{100000 + number}.jpg"))
    _write(
        folder / "AVA.txt",
        [f"{one.number + 1} {100000 + one.number} {' '.join(map(str, one.votes))} 0 0 1" for one in rated],
    )
    _write(folder / "aesthetics_image_lists" / "generic_test.jpgl", [str(100000 + one.number) for one in rated[:test]])


def _flickr(folder: Path, scenes: _Scenes, count: int) -> None:
    def name(number: int) -> str:
        return f"farm1_27_{96361200 + number}_c2005950{number:04d}.jpg"

    scores, ratings = [], []
    for one in scenes.render(count, lambda number: folder / "40K" / name(number)):
        # Five stars of five workers; the score is their mean, divided by five.
        stars = np.clip(np.rint(1 + 4 * (np.repeat(_VOTES, one.votes)[:: _RATERS // 5] - 1) / 9), 1, 5).astype(int)
        scores.append(f"{name(one.number)} {stars.mean() / 5:.4f}")
        ratings += [f" w{worker} , {name(one.number)} , {value} " for worker, value in enumerate(stars)]
    _write(folder / "FLICKR-AES_image_score.txt", scores)
    _write(folder / "FLICKR-AES_image_labeled_by_each_worker.csv", [" worker, imagePair, score ", *ratings])


def _para(folder: Path, scenes: _Scenes, train: int, test: int) -> None:
    levels = [f"aestheticScore_{1 + half / 2:.1f}" for half in range(9)]
    head = ",".join(["imageName", "sessionId", "semantic", *levels, "aestheticScore_mean", "aestheticScore_std"])
    for split, count in (("Train", train), ("Test", test)):
        rows = []
        for one in scenes.render(count, lambda number: folder / "imgs" / "session1" / f"iaa_pub{number}_.jpg"):
            half = np.rint(8 * (np.repeat(_VOTES, one.votes) - 1) / 9).astype(int)
            counts, values = np.bincount(half, minlength=9), 1 + half / 2
            figures = [*map(str, counts), f"{values.mean():.6f}", f"{values.std():.6f}"]
            rows.append(",".join([f"iaa_pub{one.number}_.jpg", "session1", "scene", *figures]))
        _write(folder / "annotation" / f"PARA-Giaa{split}.csv", [head, *rows])


def _aadb(folder: Path, scenes: _Scenes, train: int, test: int) -> None:
    def name(number: int) -> str:
        return f"farm1_333_{194380 + number}_087c8abc60_b.jpg"

    labels = folder / "imgListFiles_label" / "imgListFiles_label"
    for split, count in (("Train", train), ("Validation", train), ("TestNew", test)):
        rated = scenes.render(count, lambda number: folder / "datasetImages_originalSize" / name(number))
        _write(labels / f"imgList{split}Regression_score.txt", [f"{name(one.number)} {one.score:.4f}" for one in rated])


def _conversations(root: Path, count: int) -> Iterator[str]:
    """Critiques as conversations in the form of LLaMA-Factory, with scores as `max` makes them."""
    rng = np.random.default_rng(0)
    sources = (DataConfig(path=root / name, normalizer="max") for name in ("TAD66K", "AVA"))
    for source in sources:
        records = read_parts(source, 0, None)[0].records
        train = [row for row in range(len(records.labels)) if records.splits[row] == SPLITS.index("train")]
        for record in map(records.record, train[: count // 2]):
            assert record.path is not None
            values = measure(np.asarray(Image.open(record.path)))
            text = write_critique(record.uid, values, record.score, rng, 0.0).text
            answer = format_completion(text, record.score)
            messages = [{"role": "user", "content": f"<image>{SCORE_PROMPT}"}, {"role": "assistant", "content": answer}]
            yield json.dumps({"messages": messages, "images": [record.path.relative_to(root).as_posix()]})
