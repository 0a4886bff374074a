"""Engine: vLLM on one model folder, with weights that can be replaced between two steps.

- The engine runs inside its worker's own process, without an engine subprocess. One process is one
  worker: a kill is a clean death, and the start takes a third of the time.
- Requests may be added and weights loaded between any two steps;
  `rapo.inference.engine_thread.EngineThread` decides when.
- The engine sets no time limits. Its callers hold an actor handle and a limit of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rapo.config import EngineConfig
from rapo.errors import WeightError
from rapo.families.inputs import EncodedImage
from rapo.inference.engine_core import Core
from rapo.inference.image_inputs import Renderer
from rapo.inference.split_weights import load_in_parts
from rapo.inference.types import SamplingSpec
from rapo.models.completeness import check_parameters, read_config, refuse_not_finite, stored_names
from rapo.policy.processing import PolicyProcessor
from rapo.util.garbage import collector_off

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

#: What a subclass keeps of each request in flight.
State = TypeVar("State")


def engine_arguments(
    model_dir: str, engine: EngineConfig, *, dtype: str, seed: int, sleeps: bool = False
) -> dict[str, object]:
    """Keyword arguments of `vllm.LLM`. With `sleeps` its GPU memory can be given up for a while,
    which vLLM has for GPUs only."""
    arguments: dict[str, object] = {
        "model": model_dir,
        "dtype": dtype,
        "seed": seed,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "enforce_eager": not torch.cuda.is_available() if engine.enforce_eager is None else engine.enforce_eager,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        # The learner corrects by these log-probs, so they must be those of the distribution that
        # was sampled from.
        "logprobs_mode": "processed_logprobs",
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enable_sleep_mode": sleeps and torch.cuda.is_available(),
        "worker_extension_cls": "rapo.inference.worker_extension.WorkerExtension",
    }
    if not torch.cuda.is_available():
        # After a prefill that was split over steps vLLM winds a seeded generator back, which a
        # CPU's generator cannot do.
        arguments["enable_chunked_prefill"] = False
    # Never Ray, which vLLM would take inside a placement group: its workers need a bundle each.
    arguments["distributed_executor_backend"] = "uni" if engine.tensor_parallel_size == 1 else "mp"
    if engine.block_size is not None:
        arguments["block_size"] = engine.block_size
    return arguments


def refuse_damaged(llm: LLM, model_dir: str) -> None:
    """Raise `ModelError` where a parameter that was loaded holds NaN or infinity."""
    damaged = {name for names in llm.collective_rpc("rapo_not_finite") for name in names}
    refuse_not_finite(model_dir, sorted(damaged))


class Engine(Generic[State]):
    """Base of the engines: the model, its processor and its weights, at weight version `version`.

    A subclass says what a request is by `add`, `cancel` and `step` (see
    `rapo.inference.engine_thread.EngineLike`). `version` is None while no verified weights are
    held. Not thread-safe: one thread uses it, except where a method says otherwise. `sleep` needs
    `sleeps`. Raises `ModelError` unless the folder holds every parameter, and all are finite.
    """

    def __init__(
        self,
        model_dir: str,
        settings: EngineConfig,
        *,
        dtype: str,
        seed: int = 0,
        version: int = 0,
        sleeps: bool = False,
    ) -> None:
        with collector_off():  # ends before the engine starts, which searches by itself
            from vllm import LLM

        self.processor = PolicyProcessor(model_dir)
        check_parameters(model_dir)
        self.processor.family.check_engine(read_config(model_dir), on_gpu=torch.cuda.is_available())
        self._llm = LLM(
            **engine_arguments(model_dir, settings, dtype=dtype, seed=seed, sleeps=sleeps),
            disable_log_stats=True,
            # vLLM's cache of processed images stays empty: images arrive encoded
            # (`rapo.inference.image_inputs`).
            mm_processor_cache_gb=0,
        )
        refuse_damaged(self._llm, model_dir)
        self._engine = self._llm.llm_engine
        self._stored_names = stored_names(model_dir) if self.processor.family.keeps_stored_names else {}
        self._core = Core(self._llm)
        self._render = Renderer(self._llm)
        self._in_many_processes = settings.tensor_parallel_size > 1
        self._max_length = settings.max_model_len
        self._bias = dict.fromkeys(self.processor.banned_token_ids, -100.0)
        self._requests: dict[str, State] = {}
        self._asleep = False
        self.version: int | None = version

    @property
    def busy(self) -> bool:
        """Whether requests are in flight."""
        return bool(self._requests)

    def encode(self, pixels: NDArray[np.uint8], key: str) -> EncodedImage:
        """Encode an RGB image of any size, `(height, width, 3)`. Equal keys mean equal images. Call
        it from any thread."""
        return self.processor.family.encode(self.processor, pixels, key, self._render)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Assign every parameter and drop all caches that the old weights filled.

        `weights` are `(name, tensor)` pairs under transformers' names. Requests in flight continue
        on the new weights from their next token on; their earlier tokens are computed again. Raises
        `rapo.errors.WeightError` where a parameter was not assigned, or a cache not dropped; the
        engine then holds no version. vLLM raises itself where it cannot drop what requests in
        flight hold: such an engine is broken.
        """
        self.version = None
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        weights = ((self._stored_names.get(name, name), tensor) for name, tensor in weights)
        if self._in_many_processes:
            load_in_parts(self._llm, weights)
        else:
            self._llm.collective_rpc("rapo_load_weights", args=(weights,))
        # Prefix blocks, processed inputs and vision features were computed with the old weights.
        if not self._engine.reset_prefix_cache(reset_running_requests=self.busy):
            raise WeightError("vLLM kept blocks of its KV cache that the old weights filled")
        if self.busy:
            self._keep_images()
        else:  # this cache holds the images that requests in flight still need
            self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        self.version = version

    def sleep(self) -> None:
        """Give up the GPU's memory, the weights' and the KV cache's, until the next `load`. No
        request may be in flight. On a CPU vLLM keeps its memory, and only refuses to work."""
        self.version = None
        # Level 2 keeps nothing of the parameters, which `load` assigns anew, every one of them.
        self._llm.sleep(level=2)
        self._asleep = True

    def _check_length(self, tokens: int, answer_tokens: int) -> None:
        """Raise `ValueError` where a prompt leaves no room for an answer of `answer_tokens`."""
        if tokens + answer_tokens > self._max_length:
            raise ValueError(f"its prompt has {tokens} tokens, the model takes {self._max_length} with the answer")

    def _parameters(self, sampling: SamplingSpec, seed: int, **overrides: object) -> SamplingParams:
        """vLLM's `SamplingParams` for one completion; `overrides` replace what follows from
        `sampling`."""
        from vllm import SamplingParams

        fields: dict[str, object] = {
            "temperature": sampling.temperature,
            "seed": seed,
            "max_tokens": sampling.max_tokens,
            "logprobs": 0 if sampling.logprobs else None,
            "logit_bias": self._bias,
            "stop_token_ids": [] if sampling.ignore_stop else self.processor.stop_token_ids,
            "ignore_eos": sampling.ignore_stop,
            "detokenize": False,
        }
        return SamplingParams(**(fields | overrides))

    def _keep_images(self) -> None:
        """Send the workers the pixels of the requests in flight once more.

        A worker drops the pixels of a request whose image lies in a cached prefix (as with the K
        completions of one image), because nothing will encode that image again. After an update it
        is encoded again.
        """
        scheduler = self._engine.engine_core.engine_core.scheduler
        features = {name: request.mm_features for name, request in scheduler.requests.items()}
        self._llm.collective_rpc("rapo_keep_images", args=(features,))


def seeded_copies(parameters: SamplingParams, completions: int) -> list[SamplingParams]:
    """A copy of `parameters` for each completion; copy k has their seed plus k."""
    copies = [copy(parameters) for _ in range(completions)]
    for index, own in enumerate(copies):
        own.seed = parameters.seed + index
    return copies
