"""Makes `torchvision` importable beside a CPU-only torch, in every process.

torchvision's wheel links its C++ operators to CUDA. Under a CPU-only torch that library cannot
load, and the package's import then registers fake kernels for two operators that have no schema,
which fails. Declaring the two schemas first is enough for what a vision-language processor needs
(resize, normalise). transformers imports torchvision in every process and vLLM inspects models in a
subprocess before any plug-in runs, so this must act at interpreter start: `python -m
rapo.torchvision_cpu` writes a `.pth` file into site-packages that imports this module. The hook
waits for the first import of torchvision, so a plain interpreter start pays next to nothing; with a
CUDA torch, or a torchvision built for the CPU, it does nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

PTH_NAME = "rapo_torchvision_cpu.pth"
_OPERATORS = ("nms", "qnms")
_KEEP_ALIVE: list[Any] = []


class _TorchvisionHook(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None  # the ordinary finders go on from here


def _declare_operators() -> None:
    if _KEEP_ALIVE or importlib.util.find_spec("torch") is None or _is_cpu_build():
        return
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP_ALIVE.append(library)  # the schemas vanish with the object


def _is_cpu_build() -> bool:
    """A torchvision built for the CPU declares the operators itself; declaring them twice is an
    error."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "+cpu" in version("torchvision")
    except PackageNotFoundError:
        return True


def install() -> Path:
    """Write the `.pth` file into this interpreter's site-packages; the path of it.

    It imports this module under the name by which it was found, so that a copy of this file serves
    an environment without rapo.
    """
    name = __spec__.name if __spec__ is not None else "rapo.torchvision_cpu"
    target = Path(sysconfig.get_paths()["purelib"]) / PTH_NAME
    target.write_text(f"import {name}\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    install()
elif not any(isinstance(finder, _TorchvisionHook) for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchvisionHook())
