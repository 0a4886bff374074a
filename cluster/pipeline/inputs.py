"""Inputs: what the stages of a run have read, so that a change between two starts is an error.

- A `done.json` holds digests of the images or the model folder that its stage read. The index of
  the data holds those of the labels.
- The digest of an image is of its size and of three places in it; of a large set 20,000 images
  count.
- What the stages that are finished have read must be there as it was: the later stages would
  otherwise go on with other images or labels than those that the first ones saw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from cluster.files.run_folder import RunFolder
from cluster.pipeline.results import ColdStartResult, DataResult
from rapo.config import Config
from rapo.datasets.index import read_index
from rapo.datasets.record_table import RecordTable
from rapo.errors import RunFolderError
from rapo.util.file_digest import file_digest, model_digest

_IMAGES = "images.npy"
_MOST = 20_000
_GONE = 0


def keep_images(folder: Path, records: RecordTable) -> str:
    """Write the digests of the images into the data stage's `folder`; the digest of all."""
    digests = _image_digests(records)
    np.save(folder / _IMAGES, digests)
    return xxhash.xxh3_64(digests.tobytes()).hexdigest()


def policy_digest(config: Config) -> str:
    """A digest of the model folder that training starts from; empty for the embedded model."""
    return "" if config.policy.model == "embedded" else model_digest(Path(config.policy.model))


def raise_changed(config: Config, folder: RunFolder) -> None:
    """Raise `RunFolderError` where labels, images or a model folder are not as the finished stages
    of a run read them."""
    data = folder.result("data", DataResult)
    if data is not None and data.images:
        _check_images(folder / "data")
    coldstart = folder.result("coldstart", ColdStartResult)
    if coldstart is not None and coldstart.model and coldstart.model != policy_digest(config):
        raise _changed(f"the model folder {config.policy.model}", "coldstart")


def _check_images(folder: Path) -> None:
    dataset = read_index(folder)  # raises where the labels have changed
    path = folder / _IMAGES
    if dataset is None or not path.is_file():
        return
    records, before = dataset.records, np.load(path)
    rows = _looked_at(records)
    if len(rows) != len(before):
        raise RunFolderError(f"{path} is damaged; remove {folder} and start the same command again")
    other = np.flatnonzero(_image_digests(records) != before)
    if len(other):
        first = records[int(rows[other[0]])]
        more = f" and {len(other) - 1:,} more" if len(other) > 1 else ""
        raise _changed(f"the image {first.path}{more}", "data")


def _changed(what: str, stage: str) -> RunFolderError:
    return RunFolderError(
        f"{what} changed since the stage {stage} of this run, and the later stages must see the same. Put back what was "
        "there, or start a new run with another --out"
    )


def _looked_at(records: RecordTable) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, len(records) - 1, min(len(records), _MOST)).astype(np.int64))


def _image_digests(records: RecordTable) -> NDArray[np.uint64]:
    def digests() -> Iterator[int]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for digest in pool.map(file_digest, records.take(_looked_at(records)).files(), chunksize=256):
                yield _GONE if digest is None else digest

    return np.fromiter(digests(), np.uint64)
