"""torchvision on CPUs: a hook that makes `torchvision` importable beside a CPU-only torch.

- torchvision's wheel links its C++ operators to CUDA, so that they cannot load beside a CPU-only
  torch. The package's import then registers fake kernels for two operators that have no schema,
  which fails. Declaring the two schemas first is enough for the resizing and normalising of a
  vision-language processor.
- The hook must act at the start of every interpreter, because transformers imports torchvision in
  every process and vLLM inspects models in a subprocess before any plug-in runs. `python -m
  rapo.torchvision_cpu` writes a `.pth` file into site-packages that imports this module.
- The hook waits for the first import of torchvision, so that it costs a plain interpreter next to
  nothing. With a CUDA torch, or a torchvision built for the CPU, it does nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

PTH_NAME = "rapo_torchvision_cpu.pth"
_OPERATORS = ("nms", "qnms")
_KEEP_ALIVE: list[object] = []


class _TorchvisionHook(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None  # the ordinary finders continue


def _declare_operators() -> None:
    if _KEEP_ALIVE or importlib.util.find_spec("torch") is None or _is_cpu_build():
        return
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP_ALIVE.append(library)  # the schemas exist as long as the object


def _is_cpu_build() -> bool:
    """Whether torchvision is built for the CPU or not installed. Such a build declares the
    operators itself, and declaring them twice is an error."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "+cpu" in version("torchvision")
    except PackageNotFoundError:
        return True


def install() -> Path:
    """Write the `.pth` file into this interpreter's site-packages; its path.

    The file imports this module under its present name, so that a copy of this module serves an
    environment without rapo. A process that cannot see the package, such as a node of a cluster to
    which the code is sent, starts without the hook.
    """
    name = __spec__.name if __spec__ is not None else "rapo.torchvision_cpu"
    target = Path(sysconfig.get_paths()["purelib"]) / PTH_NAME
    guard = f"importlib.util.find_spec({name.partition('.')[0]!r})"
    # A line of a `.pth` file is run if it begins with "import".
    target.write_text(f"import importlib.util; {guard} and __import__({name!r})\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    install()
elif not any(isinstance(finder, _TorchvisionHook) for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchvisionHook())
