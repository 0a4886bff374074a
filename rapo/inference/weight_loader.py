"""Loads a weight version into a running vLLM worker and proves that nothing was left out.

vLLM mixes `WeightLoader` into its worker (`worker_extension_cls`). vLLM's own reload only warns
about parameters that a reload did not assign; here that is an error, because a worker with half a
new model would go on sampling as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rapo.errors import WeightError

#: What vLLM's loaders raise for an unknown name (Attribute-, Key- or ValueError) or a shape that
#: does not fit.
_REFUSALS = (AssertionError, AttributeError, KeyError, RuntimeError, ValueError)


def load_every_parameter(model: Any, model_config: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
    """Assign every parameter of vLLM's `model` from `weights` (names as in transformers); the
    number of parameters assigned.

    Raises `WeightError` for a tensor that the model does not take, and where a parameter was not
    assigned, or only in part (one shard of a fused one). What `weights` itself raises passes. After
    an error the model is a mixture of versions: load again before it is used.
    """
    drawn = ""

    def noted() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal drawn
        for name, tensor in weights:
            drawn = name
            yield name, tensor

    expected = {name for name, _ in model.named_parameters()}
    with _reloading(model, model_config):
        try:
            with torch.no_grad():
                loaded = model.load_weights(noted())
        except _REFUSALS as error:
            raise WeightError(
                f"the engine does not take {drawn}: {error!r}. Are the weights of another model, or names changed?"
            ) from error
        partial = [name for name, layer in model.named_modules() if _in_part(layer)]
        missing = sorted(expected - loaded)
        if missing or partial:
            raise WeightError(
                f"the engine did not get every parameter: {len(missing)} missing {missing[:5]}, "
                f"{len(partial)} assigned in part {partial[:5]}. Are the weights of another model, or names changed?"
            )
    return len(loaded)


@contextmanager
def _reloading(model: Any, model_config: Any) -> Iterator[None]:
    """vLLM holds the shards of a fused parameter back until all have come. After an error what
    waits is dropped: it would count towards the next version, which then does not load."""
    initialize_layerwise_reload(model)
    try:
        yield
    except BaseException:
        for layer in model.modules():
            info = get_layerwise_info(layer)
            info.loaded_weights.clear()
            info.load_numel = 0
        raise
    finally:
        finalize_layerwise_reload(model, model_config)


def _in_part(layer: torch.nn.Module) -> bool:
    info = get_layerwise_info(layer)
    if hasattr(layer, "org_vocab_size"):  # a vocabulary is padded, its padding has no weights
        return False
    return info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0)


class WeightLoader:
    """Worker extension; `model_runner` is the worker's own."""

    model_runner: Any

    def rapo_load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """`load_every_parameter` of the worker's model, which then forgets what it had computed of
        images."""
        assigned = load_every_parameter(self.model_runner.get_model(), self.model_runner.model_config, weights)
        self.model_runner.reset_encoder_cache()
        self.model_runner.reset_mm_cache()
        return assigned

    def rapo_keep_images(self, features: dict[str, list[Any]]) -> None:
        """Set the multimodal features, pixels included, of the requests that this worker knows."""
        for name, known in self.model_runner.requests.items():
            if name in features:
                known.mm_features = features[name]
