"""Regenerate `rapo/v1/` from `protos/rapo/v1/*.proto`: `python protos/generate.py`.

The generated files are committed, so that installing rapo needs no compiler. With `--check` nothing
is written and the exit code is 1 where the committed files differ from what would be generated.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("rapo", "v1")
INIT = '"""Generated from protos/rapo/v1 by protos/generate.py; do not edit."""\n'


def generate(target: Path) -> list[Path]:
    """Write the Python package of every .proto file below `target` and return the files, relative
    to it."""
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    # The import root is protos/, so that modules are named rapo.v1.<file>: messages are pickled by
    # that name.
    roots = [f"--proto_path={PROTOS}", f"--proto_path={_googleapis()}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *roots, *outputs, *sources]
    subprocess.run(command, check=True, timeout=120)
    (target / PACKAGE / "__init__.py").write_text(INIT, encoding="utf-8")
    return sorted(path.relative_to(target) for path in (target / PACKAGE).glob("*.py*") if path.is_file())


def _googleapis() -> Path:
    """Where google/rpc/status.proto lies: beside the code of googleapis-common-protos."""
    spec = importlib.util.find_spec("google.rpc.status_pb2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        stale = [
            path
            for path in generate(fresh)
            if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != (fresh / path).read_bytes()
        ]
        for path in stale:
            if not check:
                (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
                (ROOT / path).write_bytes((fresh / path).read_bytes())
            sys.stderr.write(f"{'stale' if check else 'wrote'}: {path}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
