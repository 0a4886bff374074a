"""Label files: data sets on disk, as the tests of their layouts need them."""

from __future__ import annotations

import csv
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rapo.config import DataConfig, ImageConfig
from rapo.datasets.load import load_dataset

SPLITS = ("train", "validation", "test")


def make_image(path: Path, shade: int | None = None, size: int = 20) -> None:
    """An image whose bytes differ from those of another shade (default: by its name)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = zlib.crc32(path.name.encode()) if shade is None else shade
    color = (shade % 256, 80, 160)
    Image.new("RGB", (size, size), color).save(path, comment=str(shade), pnginfo=_comment(str(shade)))


def _comment(text: str) -> PngInfo:
    info = PngInfo()
    info.add_text("shade", text)
    return info


def ava(folder: Path, images: int = 30, test: int = 5, validation: int = 0, where: str = "images") -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for index in range(images):
        votes = rng.integers(1, 20, 10)
        lines.append(f"{index + 1} {1000 + index} {' '.join(map(str, votes))} 0 0 {index % 7}")
        make_image(folder / where / f"{1000 + index}.jpg", index)
    (folder / "AVA.txt").write_text("\n".join(lines) + "\n")
    lists = folder / "aesthetics_image_lists"
    lists.mkdir(exist_ok=True)
    if test:
        (lists / "generic_test.jpgl").write_text("\n".join(str(1000 + index) for index in range(test)))
    if validation:
        (lists / "validation.jpgl").write_text("\n".join(str(1000 + test + index) for index in range(validation)))
    return folder


def table(path, rows, *, images=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    if images:
        for index, row in enumerate(rows):
            make_image(path.parent / row["image"], index)
    return path


def rated(count, **more):
    return [{"image": f"img/{index}.png", "score": round(index / count, 3), **more} for index in range(count)]


def load(path, seed=0, **config):
    return load_dataset(DataConfig(path=path, **config), ImageConfig(), seed)


def uids(dataset, split):
    return {record.uid for record in dataset.split(split)}


# AVA
