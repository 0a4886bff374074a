"""Storage: rates of `rapo.storage` against an S3 server on this machine, beside boto3's transfers.

    python -m bench.storage.rates [--mib 256] [--files 200]

- The server is moto's, in a process of its own, so that the rates are bounds of this machine and
  not of a service.
- A folder is one large file and many small ones, as a checkpoint and its logs are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rapo.storage.snapshot import FolderSnapshot
from rapo.storage.store import Store
from tests.s3_server import BUCKET, environment, s3_server


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def make_folder(folder: Path, mib: int, files: int) -> None:
    """One file of `mib` MiB and `files` of 4 KiB each, of which no two are alike."""
    (folder / "state").mkdir(parents=True)
    with (folder / "state/large").open("wb") as large:
        for _ in range(mib):
            large.write(os.urandom(2**20))
    for number in range(files):
        (folder / f"state/small-{number:04d}").write_bytes(os.urandom(4096))


def boto3_rates(folder: Path, back: Path, port: int, mib: int) -> dict[str, float]:
    """MiB/s of boto3's managed transfers, of the large file."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    up = seconds(lambda: client.upload_file(str(folder / "state/large"), BUCKET, "boto3/large"))
    down = seconds(lambda: client.download_file(BUCKET, "boto3/large", str(back)))
    return {"upload": mib / up, "download": mib / down}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--files", type=int, default=200)
    arguments = parser.parse_args()
    mib, files = arguments.mib, arguments.files
    with s3_server() as port, tempfile.TemporaryDirectory() as scratch:
        os.environ.update(environment(port))
        folder = Path(scratch) / "run"
        make_folder(folder, mib, files)
        store = Store(f"s3://{BUCKET}/bench")
        size = mib * 2**20
        up = seconds(lambda: store.upload(folder / "state/large", "large", size))
        down = seconds(lambda: store.download("large", Path(scratch) / "back"))
        result: dict[str, object] = {
            "mib": mib,
            "rapo": {"upload": mib / up, "download": mib / down},
            "boto3": boto3_rates(folder, Path(scratch) / "back", port, mib),
        }
        snapshot = FolderSnapshot(folder, Store(f"s3://{BUCKET}/run"))
        result["first_state_s"] = seconds(snapshot.store)
        with (folder / "log").open("w") as log:
            log.write("a row\n")
        result["next_state_s"] = seconds(snapshot.store)
        result["local_copy_s"] = seconds(lambda: shutil.copytree(folder, Path(scratch) / "copy"))
        restored = FolderSnapshot(Path(scratch) / "other", Store(f"s3://{BUCKET}/run"))
        result["restore_s"] = seconds(restored.restore)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
