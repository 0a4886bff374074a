"""Where a run's images come from: the user's, or the embedded scenes rendered into the run
folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.files.atomic import write_json
from cluster.files.run_folder import RunFolder
from rapo.config import Config
from rapo.datasets.load import Dataset, load_dataset
from rapo.datasets.scenes import write_scenes


def load_data(config: Config, folder: RunFolder, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The data set of a run; DIR/data/summary.json says what was read and what was skipped."""
    scenes: Path | None = None
    if config.data.path is None:
        scenes = folder / "data" / "scenes"
        write_scenes(scenes, config.data.scenes, config.run.seed, progress)
    dataset = load_dataset(config.data, config.image, config.run.seed, default_path=scenes)
    (folder / "data").mkdir(exist_ok=True)
    write_json(
        folder / "data" / "summary.json",
        {
            "name": "embedded scenes" if scenes else dataset.name,
            **dataset.info,
            "skipped_images": list(dataset.skipped),
        },
    )
    return dataset
