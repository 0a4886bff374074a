"""The paper's protocol in small: three sets to train on, five to test on, from configs/paper.toml.

    python -m bench.paper_protocol --work DIR [--train 800] [--test 200] [--set KEY=VALUE ...]

TAD66K, AVA, FLICKR-AES, PARA and AADB are rebuilt into DIR/data in their exact layouts, of rendered
scenes with simulated raters, with critiques in the form of AesCoT-3K.jsonl. DIR/run is the run of
configs/paper.toml with the embedded policy on two CPU cores (`bench.support.paper_in_small`). What
is there already is kept, so that the command can be repeated. It says that the protocol runs to its
end; it says nothing about photographs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.support.paper_in_small import ON_CPU, PAPER
from bench.support.scene_collections import write_collections

_LIMIT_S = 3600


def run_paper(work: Path, overrides: Sequence[str]) -> Path:
    """Run configs/paper.toml in `work`, whose folder `data` has the collections; the run's
    folder."""
    command = [sys.executable, "-m", "rapo", "run", str(PAPER), "--out", "run"]
    command += [part for override in (*ON_CPU, *overrides) for part in ("--set", override)]
    with (work / "run.log").open("ab") as log:
        subprocess.run(command, check=True, cwd=work, stdout=log, stderr=subprocess.STDOUT, timeout=_LIMIT_S)
    return work / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    write_collections(given.work / "data", given.train, given.test, critiques=min(300, given.train))
    out = run_paper(given.work.resolve(), given.overrides)
    sys.stdout.write((out / "evaluate" / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
