"""Loads a weight version into a running vLLM worker and proves that nothing was left out.

vLLM mixes `WeightLoader` into its worker (`worker_extension_cls`). vLLM's own reload only warns about parameters that a
reload did not assign; here that is an error, because a worker with half a new model would go on sampling as if nothing had
happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rapo.errors import WeightError


class WeightLoader:
    """Worker extension; `model_runner` is the worker's own."""

    model_runner: Any

    def rapo_load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """Assign every parameter from `weights` (names as in transformers); the number of parameters assigned.

        Raises `WeightError` where a parameter of the engine was not assigned, or only in part (one shard of a fused one).
        """
        model = self.model_runner.get_model()
        expected = {name for name, _ in model.named_parameters()}
        initialize_layerwise_reload(model)
        with torch.no_grad():
            loaded = model.load_weights(iter(weights))
        partial = [
            name
            for name, layer in model.named_modules()
            if (info := get_layerwise_info(layer)).can_load()
            and 0 < info.load_numel < (info.load_numel_total or 0)
            and not hasattr(layer, "org_vocab_size")  # a vocabulary is padded, its padding has no weights
        ]
        finalize_layerwise_reload(model, self.model_runner.model_config)
        missing = sorted(expected - loaded)
        if missing or partial:
            raise WeightError(
                f"the engine did not get every parameter: {len(missing)} missing {missing[:5]}, "
                f"{len(partial)} assigned in part {partial[:5]}. Are the weights of another model, or names changed?"
            )
        self.model_runner.reset_encoder_cache()
        self.model_runner.reset_mm_cache()
        return len(loaded)

    def rapo_keep_pictures(self, features: dict[str, list[Any]]) -> None:
        """Set the multimodal features, pixels included, of the requests that this worker knows."""
        for name, known in self.model_runner.requests.items():
            if name in features:
                known.mm_features = features[name]
