"""Devices: which device a process uses, as its configuration says, whatever the machine has.

- Without GPUs of its own a process sees none: torch, DeepSpeed and vLLM then take the CPU, and
  ranks meet over gloo. Ray alone would leave such a process every GPU of its node.
- With GPUs of its own it sees those that Ray gave it. Where torch finds none of them, the process
  ends with an error instead of a computation on the CPU.
"""

from __future__ import annotations

from rapo.errors import ResourceError

#: The environment of a process without GPUs.
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def device_environment(gpus: float) -> dict[str, str]:
    """The variables of a process that has `gpus` GPUs of its own."""
    return {} if gpus else dict(CPU_ONLY)


def require_device(gpus: float, key: str) -> None:
    """Raise `ResourceError` where `key` gives this process GPUs and torch finds none."""
    if not gpus:
        return
    import torch

    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for CPUs"
        raise ResourceError(
            f"{key} = {gpus:g}, but torch finds no GPU here: it is {build}. `rapo doctor` on this node says what is "
            f"missing; {key} = 0 runs on the CPU."
        )
