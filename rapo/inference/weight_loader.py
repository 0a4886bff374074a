"""WeightLoader: loads a weight version into a running vLLM worker, and checks that it is complete.

- vLLM mixes `WeightLoader` into its worker (`worker_extension_cls`).
- vLLM's own reload only warns about parameters that were not assigned. Here they are an error,
  because a worker with half a new model would continue to sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.meta import SKIP_LOAD_TENSORS

from rapo.errors import WeightError
from rapo.inference.assigned import in_part
from rapo.inference.split_weights import Slot, mapped
from rapo.models.completeness import not_finite

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

#: The errors of vLLM's loaders for an unknown name (Attribute-, Key- or ValueError), or a shape
#: that does not fit.
_REFUSALS = (AssertionError, AttributeError, KeyError, RuntimeError, ValueError)


class ParameterLoad:
    """A load of every parameter of vLLM's `model`: `feed`, any number of times, then `finish`, or
    `abandon`.

    After `abandon` the model is a mixture of versions: load again before it is used.
    """

    def __init__(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        self._model = model
        self._model_config = model_config
        self._expected = {name for name, _ in model.named_parameters()}
        self._loaded: set[str] = set()
        # vLLM's layer-wise reload assigns a fused parameter once all its shards have arrived.
        initialize_layerwise_reload(model)

    def feed(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Assign some parameters (names as in transformers). Raises `WeightError` for a tensor that
        the model does not take; errors of `weights` itself pass through."""
        current = ""

        def tracked() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal current
            for name, tensor in weights:
                current = name
                yield name, tensor

        try:
            with torch.no_grad():
                self._loaded |= self._model.load_weights(tracked())
        except _REFUSALS as error:
            raise WeightError(
                f"the engine does not take {current}: {error!r}. Are the weights of another model, or names changed?"
            ) from error

    def finish(self) -> int:
        """The number of parameters assigned. Raises `WeightError` where one was not, or only in
        part (one shard of a fused one)."""
        layers = self._model.named_modules()
        partial = [name for name, layer in layers if in_part(layer, get_layerwise_info(layer), SKIP_LOAD_TENSORS)]
        missing = sorted(self._expected - self._loaded)
        if missing or partial:
            raise WeightError(
                f"the engine did not get every parameter: {len(missing)} missing {missing[:5]}, "
                f"{len(partial)} assigned in part {partial[:5]}. Are the weights of another model, or names changed?"
            )
        finalize_layerwise_reload(self._model, self._model_config)
        return len(self._loaded)

    def abandon(self) -> None:
        """Drop the shards that wait: they would count towards the next version, which could then
        not be loaded."""
        for layer in self._model.modules():
            info = get_layerwise_info(layer)
            info.loaded_weights.clear()
            info.load_numel = 0
        finalize_layerwise_reload(self._model, self._model_config)


def load_every_parameter(
    model: torch.nn.Module, model_config: ModelConfig, weights: Iterable[tuple[str, torch.Tensor]]
) -> int:
    """Assign every parameter of vLLM's `model` from `weights` (names as in transformers); the
    number of parameters assigned. Raises as `ParameterLoad` does; after an error load again before
    the model is used."""
    load = ParameterLoad(model, model_config)
    try:
        load.feed(weights)
        return load.finish()
    except BaseException:
        load.abandon()
        raise


class WeightLoader:
    """Worker extension; `model_runner` is the worker's own."""

    model_runner: GPUModelRunner
    rapo_load: ParameterLoad

    def rapo_load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """`load_every_parameter` of the worker's model; then drop its caches of images."""
        assigned = load_every_parameter(self.model_runner.get_model(), self.model_runner.model_config, weights)
        self._drop_images()
        return assigned

    def rapo_begin_weights(self) -> str | None:
        """Begin a load in parts (`rapo.inference.split_weights`). Each call of one answers with
        what is wrong, None where nothing is."""
        self.rapo_load = ParameterLoad(self.model_runner.get_model(), self.model_runner.model_config)
        return None

    def rapo_load_part(self, path: str, slots: Sequence[Slot]) -> str | None:
        """Assign the parameters of one part."""
        try:
            self.rapo_load.feed(mapped(path, slots))
        except WeightError as error:
            return str(error)
        return None

    def rapo_finish_weights(self) -> str | None:
        """End a load in parts, which must have held every parameter."""
        try:
            self.rapo_load.finish()
        except WeightError as error:
            return str(error)
        self._drop_images()
        return None

    def rapo_abandon_weights(self) -> None:
        """Give a load in parts up."""
        self.rapo_load.abandon()

    def _drop_images(self) -> None:
        self.model_runner.reset_encoder_cache()
        self.model_runner.reset_mm_cache()

    def rapo_not_finite(self) -> list[str]:
        """The names of the model's parameters that hold NaN or infinity."""
        return not_finite(self.model_runner.get_model().named_parameters())

    def rapo_keep_images(self, features: dict[str, list[MultiModalFeatureSpec]]) -> None:
        """Set the multimodal features, pixels included, of the requests that this worker knows.

        vLLM's newer runner, the usual one on GPUs, knows none: it is sent a request that resumes
        like a new one, features included.
        """
        if not hasattr(self.model_runner, "requests"):
            return
        for name, known in self.model_runner.requests.items():
            if name in features:
                known.mm_features = features[name]
