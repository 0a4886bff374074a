"""WeightLoader: loads a weight version into a running vLLM worker, and checks that it is complete.

- vLLM mixes `WeightLoader` into its worker (`worker_extension_cls`).
- vLLM's own reload only warns about parameters that were not assigned. Here they are an error,
  because a worker with half a new model would continue to sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rapo.errors import WeightError
from rapo.models.completeness import not_finite

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

#: The errors of vLLM's loaders for an unknown name (Attribute-, Key- or ValueError), or a shape
#: that does not fit.
_REFUSALS = (AssertionError, AttributeError, KeyError, RuntimeError, ValueError)


def load_every_parameter(
    model: torch.nn.Module, model_config: ModelConfig, weights: Iterable[tuple[str, torch.Tensor]]
) -> int:
    """Assign every parameter of vLLM's `model` from `weights` (names as in transformers); the
    number of parameters assigned.

    Raises `WeightError` for a tensor that the model does not take, and where a parameter was not
    assigned, or only in part (one shard of a fused one). Errors of `weights` itself pass through.
    After an error the model is a mixture of versions: load again before it is used.
    """
    current = ""

    def tracked() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal current
        for name, tensor in weights:
            current = name
            yield name, tensor

    expected = {name for name, _ in model.named_parameters()}
    with _reloading(model, model_config):
        try:
            with torch.no_grad():
                loaded = model.load_weights(tracked())
        except _REFUSALS as error:
            raise WeightError(
                f"the engine does not take {current}: {error!r}. Are the weights of another model, or names changed?"
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
def _reloading(model: torch.nn.Module, model_config: ModelConfig) -> Iterator[None]:
    """vLLM's layer-wise reload, which assigns a fused parameter once all its shards have arrived.

    After an error the shards that wait are dropped: they would count towards the next version,
    which could then not be loaded.
    """
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
    """Whether some but not all elements of a layer were assigned."""
    info = get_layerwise_info(layer)
    if hasattr(layer, "org_vocab_size"):  # the padding of a vocabulary has no weights
        return False
    return info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0)


class WeightLoader:
    """Worker extension; `model_runner` is the worker's own."""

    model_runner: GPUModelRunner

    def rapo_load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """`load_every_parameter` of the worker's model; then drop its caches of images."""
        assigned = load_every_parameter(self.model_runner.get_model(), self.model_runner.model_config, weights)
        self.model_runner.reset_encoder_cache()
        self.model_runner.reset_mm_cache()
        return assigned

    def rapo_not_finite(self) -> list[str]:
        """The names of the model's parameters that hold NaN or infinity."""
        return not_finite(self.model_runner.get_model().named_parameters())

    def rapo_keep_images(self, features: dict[str, list[MultiModalFeatureSpec]]) -> None:
        """Set the multimodal features, pixels included, of the requests that this worker knows."""
        for name, known in self.model_runner.requests.items():
            if name in features:
                known.mm_features = features[name]
