"""torchvision on CPUs: the import works beside this torch, and only where it needs help."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from rapo import torchvision_cpu

_HOOKED = """
import sys
import rapo.torchvision_cpu as hook
assert "torch" not in sys.modules, "the hook alone must cost nothing"
assert sum(isinstance(f, hook._TorchvisionHook) for f in sys.meta_path) == 1
import torch
import torchvision.transforms.v2.functional as transform
assert transform.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
assert not any(isinstance(f, hook._TorchvisionHook) for f in sys.meta_path), "it acts once"
linked_to_cuda = not hook._is_cpu_build() and torch.version.cuda is None and torch.version.hip is None
assert bool(hook._KEEP_ALIVE) == linked_to_cuda
"""


def test_torchvision_imports_beside_this_torch():
    done = subprocess.run([sys.executable, "-c", _HOOKED], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("version", "cpu"), [("0.28.0+cpu", True), ("0.28.0", False), ("0.28.0+cu130", False)])
def test_a_build_for_the_cpu_needs_no_help(monkeypatch, version, cpu):
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert torchvision_cpu._is_cpu_build() is cpu


@pytest.mark.parametrize("seen", [True, False], ids=["package there", "package not there"])
def test_installing_writes_one_line_that_interpreters_run_at_start(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    path = torchvision_cpu.install()
    assert path == Path(tmp_path, "rapo_torchvision_cpu.pth")
    assert len(path.read_text().splitlines()) == 1
    program = (
        f"import site, sys; site.addsitedir({str(tmp_path)!r}); sys.exit('rapo.torchvision_cpu' not in sys.modules)"
    )
    where = [] if seen else ["-I", "-S"]
    done = subprocess.run(
        [sys.executable, *where, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode == 0) is seen
    assert done.stderr == ""
