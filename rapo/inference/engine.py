"""vLLM behind one small interface: add, step, load.

The engine runs inside its worker's own process (no engine subprocess): one process is one worker,
so a kill is a clean death and start-up takes a third of the time. Requests may be added and weights
loaded between any two steps; `rapo.inference.engine_thread` decides when. Every wait for it is the
caller's, who holds an actor handle and a limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

import torch
from PIL import Image

from rapo.config import EngineConfig
from rapo.inference.completion_builder import CompletionBuilder
from rapo.inference.engine_core import Core
from rapo.inference.environment import engine_environment, set_engine_environment
from rapo.inference.image_inputs import encode_image, features_of
from rapo.inference.types import Completion, EncodedImage, SamplingSpec
from rapo.policy.processing import PolicyProcessor

__all__ = ["Completion", "Engine", "SamplingSpec", "engine_arguments", "engine_environment", "set_engine_environment"]


def engine_arguments(
    model_dir: str, engine: EngineConfig, *, dtype: str, seed: int, worker_extension: bool
) -> dict[str, Any]:
    """Keyword arguments for `vllm.LLM` and `vllm.AsyncEngineArgs`."""
    arguments: dict[str, Any] = {
        "model": model_dir,
        "dtype": dtype,
        "seed": seed,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "enforce_eager": engine.enforce_eager,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        # The log-probs that the learner corrects by are those of the distribution that was sampled
        # from.
        "logprobs_mode": "processed_logprobs",
        "gpu_memory_utilization": engine.gpu_memory_utilization,
    }
    if not torch.cuda.is_available():
        # After a prefill that was split over steps vLLM winds a seeded generator back, which a
        # CPU's generator can't do.
        arguments["enable_chunked_prefill"] = False
    if engine.tensor_parallel_size == 1:
        arguments["distributed_executor_backend"] = "uni"
    if engine.block_size is not None:
        arguments["block_size"] = engine.block_size
    if worker_extension:
        arguments["worker_extension_cls"] = "rapo.inference.weight_loader.WeightLoader"
    return arguments


class Engine:
    """A vLLM engine on one model folder, holding weight version `version`. Not thread-safe: one
    thread uses it."""

    def __init__(
        self, model_dir: str, settings: EngineConfig, *, dtype: str, seed: int = 0, version: int | None = 0
    ) -> None:
        from vllm import LLM

        self.processor = PolicyProcessor(model_dir)
        self._llm = LLM(
            **engine_arguments(model_dir, settings, dtype=dtype, seed=seed, worker_extension=True),
            disable_log_stats=True,
            # It would keep what vLLM itself makes of images; they come made already
            # (`rapo.inference.image_inputs`).
            mm_processor_cache_gb=0,
        )
        self._engine = self._llm.llm_engine
        self._core = Core(self._llm)
        self._in_many_processes = settings.tensor_parallel_size > 1
        self._max_length = settings.max_model_len
        self._bias = dict.fromkeys(self.processor.banned_token_ids, -100.0)
        self._drawings: dict[str, CompletionBuilder] = {}
        self.version = version

    @property
    def busy(self) -> bool:
        """Whether requests are unfinished."""
        return bool(self._drawings)

    def encode(self, image: Image.Image, key: str) -> EncodedImage:
        """What `add` takes, of an RGB image of any size; equal keys mean equal images. From any
        thread."""
        return encode_image(self.processor, image, key)

    def add(self, name: str, encoded: EncodedImage, sampling: SamplingSpec, seed: int) -> None:
        """Put a request into the continuous batch; `step` gives its completions under `name`. To
        vLLM each is a request of its own; they share the prompt's blocks and the image's features.

        Raises `ValueError` for a prompt that leaves no room for an answer; nothing is then added.
        """
        if (length := len(encoded.prompt_ids)) >= self._max_length:
            raise ValueError(f"its prompt has {length} tokens, the model takes {self._max_length} with the answer")
        parameters = self._parameters(sampling, seed)
        features = features_of(encoded, self.processor.image_token_id)
        for number, own in enumerate(one_each(parameters, sampling.completions)):
            self._core.add(f"{name}/{number}", encoded.prompt_ids, features, own)
        self._drawings[name] = CompletionBuilder(sampling.completions, logprobs=sampling.logprobs)

    def cancel(self, name: str) -> None:
        """Stop a request and free what it holds; `step` gives nothing under its name any more.
        Unknown names are nothing."""
        if (drawing := self._drawings.pop(name, None)) is not None:
            self._core.cancel(f"{name}/{number}" for number in drawing.unfinished)

    def step(self) -> list[tuple[str, list[Completion]]]:
        """Advance every running request by a token; `(name, completions)` of the requests that this
        finished."""
        finished = []
        for written in self._core.step():
            name, _, number = written.name.rpartition("/")
            drawing = self._drawings.get(name)
            if drawing is not None and drawing.take(int(number), written, self.version):
                del self._drawings[name]
                finished.append((name, drawing.completions()))
        return finished

    def load(self, weights: Iterable[tuple[str, Any]], version: int) -> int:
        """Assign every parameter (`(name, tensor)` pairs, names as in transformers) and forget all
        that old weights left; the number of parameters assigned.

        Requests under way continue on the new weights from their next token: what they had computed
        is computed anew. Raises `rapo.errors.WeightError` where a parameter was not assigned; the
        engine then holds no version.
        """
        self.version = None
        if self._in_many_processes:
            weights = list(weights)  # an iterator does not travel to the workers of a tensor-parallel engine
        assigned = self._llm.collective_rpc("rapo_load_weights", args=(weights,))
        # Prefix blocks, processed inputs and vision features were all computed with the old
        # weights.
        self._engine.reset_prefix_cache(reset_running_requests=self.busy)
        if self.busy:
            self._keep_images()
        else:  # it holds the images that requests under way still need
            self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()
        self.version = version
        return int(assigned[0])

    def _parameters(self, sampling: SamplingSpec, seed: int, **more: Any) -> Any:
        """vLLM's `SamplingParams` for one completion; `more` goes over what follows from
        `sampling`."""
        from vllm import SamplingParams

        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "seed": seed,
            "max_tokens": sampling.max_tokens,
            "logprobs": 0 if sampling.logprobs else None,
            "logit_bias": self._bias,
            "stop_token_ids": [] if sampling.ignore_stop else self.processor.stop_token_ids,
            "ignore_eos": sampling.ignore_stop,
            "detokenize": False,
        }
        return SamplingParams(**(fields | more))

    def _keep_images(self) -> None:
        """Give the workers the pixels of requests under way once more.

        A worker drops the pixels of a request whose image lies in a cached prefix (the K
        completions of one image do), taking it that nothing will encode it again. After an update
        the image is encoded again.
        """
        scheduler = self._engine.engine_core.engine_core.scheduler
        features = {name: request.mm_features for name, request in scheduler.requests.items()}
        self._llm.collective_rpc("rapo_keep_images", args=(features,))


def one_each(parameters: Any, completions: int) -> list[Any]:
    """`parameters` for each of so many completions; the k-th draws with their seed plus k."""
    each = [copy(parameters) for _ in range(completions)]
    for number, own in enumerate(each):
        own.seed = parameters.seed + number
    return each
