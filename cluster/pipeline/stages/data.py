"""Data: the user's images with their scores, or the embedded scenes, rendered into the run
folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.files.atomic import write_json
from cluster.files.report import EMBEDDED
from cluster.files.run_folder import RunFolder
from rapo.config import Config
from rapo.datasets.index import read_index, write_index
from rapo.datasets.load import Dataset, load_dataset
from rapo.datasets.scenes import write_scenes
from rapo.models.prompt_length import prompt_length

#: What was read and what was skipped.
SUMMARY = "summary.json"


def load_data(config: Config, folder: RunFolder, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The data set of a run. The first call reads labels and images, and writes
    `DIR/data/summary.json` and the index that later ones read."""
    scenes: Path | None = None
    if config.data.embedded:
        scenes = folder / "data" / "scenes"
        write_scenes(scenes, config.data.scenes, config.run.seed, progress)
    data = folder / "data"
    if (known := read_index(data)) is not None:
        return known
    length = prompt_length(config)
    dataset = load_dataset(
        config.data,
        config.image,
        config.run.seed,
        default_path=scenes,
        work=data / "images",
        check_size=None if length is None else length.check,
    )
    write_index(data, dataset)
    write_json(
        folder / "data" / SUMMARY,
        {
            "name": EMBEDDED if scenes else dataset.name,
            **dataset.info,
            "skipped_images": list(dataset.skipped),
            "leaked_images": list(dataset.leaks),
        },
    )
    return dataset
