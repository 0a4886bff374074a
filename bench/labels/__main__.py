"""Label reading: seconds and peak memory of reading the labels of large tables, as every start of a
run and `rapo check` do.

    python -m bench.labels --work DIR [--rows 1000000]

Each table is read in a process of its own, splits and scales included; images are not looked for.
AVA's file has the 255,530 rows that it has. `import_mib` is the peak before anything is read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.support import record

_KINDS = ("csv", "csv with quoted names", "csv with split and std", "jsonl", "parquet", "AVA.txt")

_AVA = 255_530


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=_KINDS, choices=_KINDS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    table = []
    for kind in arguments.kinds:
        path = _written(arguments.work, kind, _AVA if kind == "AVA.txt" else arguments.rows)
        command = [sys.executable, "-c", f"from bench.labels.__main__ import read; read({str(path)!r})"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        table.append({"table": kind, **json.loads(done.stdout)})
    path = record.write_json("labels", {"machine": record.machine(), "tables": table})
    sys.stdout.write(f"{record.markdown_table(table)}\n\n{path}\n")


def read(path: str) -> None:
    """Read the labels at `path` and print what it took."""
    from rapo.config import DataConfig
    from rapo.datasets.sources import read_parts

    before = _peak_mib()
    began, worked = time.perf_counter(), time.process_time()
    (part,) = read_parts(DataConfig(path=Path(path)), 0, None)
    result = {
        "rows": len(part.records.labels),
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_s": round(time.process_time() - worked, 2),
        "peak_mib": round(_peak_mib()),
        "import_mib": round(before),
    }
    sys.stdout.write(json.dumps(result))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _written(folder: Path, kind: str, rows: int) -> Path:
    """A table of so many rows; one that is there already is kept."""
    if kind == "AVA.txt":
        path = folder / f"ava-{rows}" / "AVA.txt"
        lines = (f"{row + 1} {row} 1 2 3 4 5 6 7 8 {row % 40} 2 0 0 0" for row in range(rows))
        return _lines(path, lines)
    names = (f"photos/{row % 1000:03d}/{row:09d}.jpg" for row in range(rows))
    scores = np.random.default_rng(0).uniform(0.0, 1.0, rows).round(4).tolist()
    if kind == "csv with quoted names":
        lines = (f'"{name}",{score}' for name, score in zip(names, scores, strict=True))
        return _lines(folder / f"quoted-{rows}.csv", lines, "image,score")
    if kind == "csv with split and std":
        lines = (
            f"{name},{score},{score * (1 - score) / 2:.4f},{'test' if score > 0.9 else 'train'}"
            for name, score in zip(names, scores, strict=True)
        )
        return _lines(folder / f"full-{rows}.csv", lines, "image,score,std,split")
    if kind == "jsonl":
        lines = (json.dumps({"image": name, "score": score}) for name, score in zip(names, scores, strict=True))
        return _lines(folder / f"table-{rows}.jsonl", lines)
    if kind == "parquet":
        return _parquet(folder / f"table-{rows}.parquet", list(names), scores)
    return _lines(
        folder / f"table-{rows}.csv",
        (f"{name},{score}" for name, score in zip(names, scores, strict=True)),
        "image,score",
    )


def _lines(path: Path, lines: Iterator[str], header: str = "") -> Path:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            if header:
                file.write(f"{header}\n")
            file.writelines(f"{line}\n" for line in lines)
    return path


def _parquet(path: Path, names: list[str], scores: list[float]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": names, "score": scores}), path)
    return path


if __name__ == "__main__":
    main()
