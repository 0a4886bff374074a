"""LoRA on the policy's text model (Hu et al. 2021, arXiv 2106.09685), by peft.

- The adapters are injected in place: the model's class and module paths stay, so that
  `layer.self_attn.q_proj(x)` still works.
- Weights leave the learner merged (`rapo.policy.weight_packing.model_tensors`), so that adapters
  exist nowhere else.
- peft is imported only where adapters are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from rapo.config import LoRAConfig
from rapo.errors import ModelError
from rapo.families.registry import family_of

_NAME = "default"


@dataclass(frozen=True, slots=True)
class Adapter:
    """The update `scaling * up @ down` of the weight `(out, in)` of a linear layer. `down` is
    `(rank, in)`, `up` `(out, rank)`."""

    down: nn.Parameter
    up: nn.Parameter
    scaling: float

    def merge(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` plus the update, computed in float32, in the dtype of `weight`.

        An element whose update is zero keeps its bits, so fresh adapters (`up` is zero) give the
        base weight itself.
        """
        gain = self.scaling * (self.up.detach().float() @ self.down.detach().float())
        return torch.where(gain == 0.0, weight, (weight.float() + gain).to(weight.dtype))


def add_lora(model: PreTrainedModel, settings: LoRAConfig, *, seed: int) -> None:
    """Freeze `model` and put a trainable adapter of `settings.rank` on each target layer of its
    text model, in place.

    The same `seed` gives the same adapters on every rank. Raises `ModelError` for a target that the
    text model lacks.
    """
    from peft import LoraConfig, inject_adapter_in_model

    text = family_of(model.config).text_model(model)
    linear = {path.rpartition(".")[2] for path, module in text.named_modules() if isinstance(module, nn.Linear)}
    unknown = [target for target in settings.targets if target not in linear]
    if unknown:
        raise ModelError(
            f"learner.lora.targets names {', '.join(unknown)}, which the text model of this policy lacks; "
            f"its linear layers are {', '.join(sorted(linear))}"
        )
    model.requires_grad_(requires_grad=False)
    plan = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none", target_modules=list(settings.targets)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The text model only, because the vision tower has layers of the same names.
        inject_adapter_in_model(plan, text, adapter_name=_NAME)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """In this context `model` computes without its adapters. That is the reference policy, without
    a second copy of the weights."""
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def dense_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Adapter | None]]:
    """`(name, parameter, adapter)` under the names that the model had before `add_lora`, in the
    same order.

    The caller merges the adapter into its parameter. Under ZeRO-3 it must gather both first.
    """
    adapters = {
        path: Adapter(layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight, float(layer.scaling[_NAME]))
        for path, layer in _adapted(model)
    }
    for name, parameter in model.named_parameters():
        path, _, inner = name.partition(".base_layer.")
        if path in adapters:
            yield f"{path}.{inner}", parameter, adapters[path] if inner == "weight" else None
        elif name.rpartition(".lora_")[0] not in adapters:
            yield name, parameter, None


def _adapted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """peft's layers by path, recognised by their parts, because a run without LoRA does not import
    peft."""
    for path, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            yield path, module
