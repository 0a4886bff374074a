"""A model folder with each defect: what is said, and how fast.

    python -m bench.model_folders [--model NAME]

The folder has a published size (`tests.real_families`) and holds headers only
(`tests.sparse_folder`). What `rapo check` looks at is timed in a process that has imported
transformers: the headers (`check_model_folder`), then the architecture (`check_parameters`).
Writes `bench/results/model_folders.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.support import record
from rapo.errors import ModelError
from rapo.models.completeness import check_parameters
from rapo.models.folder import check_model_folder
from rapo.models.weight_files import INDEX, SINGLE
from tests.real_families import REAL
from tests.sparse_folder import published_shapes, write_folder, write_weights

_SHARDS = 4
_ROUNDS = 5
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16\n"
Shapes = dict[str, tuple[int, ...]]


def tensors_changed(change: Callable[[Shapes], Shapes]) -> Callable[[Path, Shapes], None]:
    """A defect of the names or shapes in one whole file."""
    return lambda folder, shapes: write_weights(folder / SINGLE, change(dict(shapes)))


def without(place: int) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name: shape for at, (name, shape) in enumerate(shapes.items()) if at != place % len(shapes)}


def half_renamed(shapes: Shapes) -> Shapes:
    return {f"base_model.{name}" if at % 2 else name: shape for at, (name, shape) in enumerate(shapes.items())}


def one_turned(shapes: Shapes) -> Shapes:
    name = next(name for name, shape in shapes.items() if len(shape) == 2 and shape[0] != shape[1])
    return shapes | {name: shapes[name][::-1]}


def sharded(folder: Path, shapes: Shapes) -> None:
    """The weights in several files and their index."""
    names = list(shapes)
    places = {name: f"model-{_SHARDS * at // len(names) + 1}-of-{_SHARDS}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(places.values())):
        write_weights(folder / file, {name: shapes[name] for name in names if places[name] == file})
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def lost_shard(folder: Path, shapes: Shapes) -> None:
    sharded(folder, shapes)
    (folder / f"model-2-of-{_SHARDS}.safetensors").unlink()


def cut(folder: Path, shapes: Shapes) -> None:
    with (folder / SINGLE).open("r+b") as file:
        file.truncate((folder / SINGLE).stat().st_size // 2)


def pointer(folder: Path, shapes: Shapes) -> None:
    (folder / SINGLE).write_bytes(_LFS)


DEFECTS: dict[str, Callable[[Path, Shapes], None]] = {
    "none": lambda folder, shapes: None,
    "none, in four files": sharded,
    "the last tensor is missing": tensors_changed(without(-1)),
    "every other tensor has another name": tensors_changed(half_renamed),
    "a tensor too many": tensors_changed(lambda shapes: shapes | {"model.value_head.weight": (1, 8)}),
    "a shape is turned": tensors_changed(one_turned),
    "a shard is not there": lost_shard,
    "the file is cut": cut,
    "the file is a Git LFS pointer": pointer,
}


def asked(check: Callable[[Path], None], folder: Path) -> tuple[float, str]:
    """The median time of a check in milliseconds, and what it says."""
    times, said = [], ""
    for _ in range(_ROUNDS):
        began = perf_counter()
        try:
            check(folder)
        except ModelError as error:
            said = str(error).replace(f"{folder}/", "").replace(str(folder), "the folder")
        times.append(1000 * (perf_counter() - began))
    return round(sorted(times)[_ROUNDS // 2], 1), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=REAL, default="Qwen3-VL-8B")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for model_folders.json and .md")
    arguments = parser.parse_args()
    config, rows = REAL[arguments.model][0], list[dict[str, Any]]()
    shapes = published_shapes(config)
    for name, spoil in DEFECTS.items():
        with tempfile.TemporaryDirectory() as made:
            folder = write_folder(Path(made), config, shapes)
            spoil(folder, shapes)
            headers_ms, said = asked(check_model_folder, folder)
            row: dict[str, Any] = {"defect": name, "headers, ms": headers_ms}
            if not said:
                row["architecture, ms"], said = asked(check_parameters, folder)
            rows.append({**row, "said": said or "(nothing)"})
    machine, versions = record.machine(), record.versions(["transformers", "safetensors"])
    result = {"model": arguments.model, "tensors": len(shapes), "machine": machine, "versions": versions, "rows": rows}
    record.write_json("model_folders", result, arguments.out)
    notes = [f"{arguments.model}, {len(shapes)} tensors, medians of {_ROUNDS}.", record.describe(machine, versions)]
    record.write_markdown("model_folders", "Model folders with defects", rows, notes, arguments.out)
    sys.stdout.write("\n\n".join([record.markdown_table(rows), *notes]) + "\n")


if __name__ == "__main__":
    main()
