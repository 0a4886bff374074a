"""vLLM behind one small interface: start, generate, load.

The engine runs in its own process's main thread (no engine subprocess): one process is one worker, so a kill is a clean death and
start-up takes a third of the time. Every wait for it is the caller's, who holds an actor handle and a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rapo.config import EngineConfig
from rapo.inference.environment import engine_environment, set_engine_environment
from rapo.policy.processing import PolicyProcessor

__all__ = ["Completion", "Engine", "Sampling", "engine_arguments", "engine_environment", "set_engine_environment"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw completions. `temperature` 0 is greedy. Sample k of a request draws with `seed + k`."""

    completions: int
    temperature: float
    max_tokens: int
    logprobs: bool = True


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion: token ids with the stop token, their log-probs (or None), and why it ended: stop or length."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32] | None
    finish_reason: str


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
        # The log-probs that the learner corrects by are those of the distribution that was sampled from.
        "logprobs_mode": "processed_logprobs",
        "gpu_memory_utilization": engine.gpu_memory_utilization,
    }
    if engine.tensor_parallel_size == 1:
        arguments["distributed_executor_backend"] = "uni"
    if engine.block_size is not None:
        arguments["block_size"] = engine.block_size
    if worker_extension:
        arguments["worker_extension_cls"] = "rapo.inference.weight_loader.WeightLoader"
    return arguments


class Engine:
    """A vLLM engine on one model folder. Not thread-safe: one caller at a time."""

    def __init__(self, model_dir: str, settings: EngineConfig, *, dtype: str, seed: int = 0) -> None:
        from vllm import LLM

        self.processor = PolicyProcessor(model_dir)
        self._llm = LLM(
            **engine_arguments(model_dir, settings, dtype=dtype, seed=seed, worker_extension=True),
            disable_log_stats=True,
        )
        self._in_many_processes = settings.tensor_parallel_size > 1
        self._bias = dict.fromkeys(self.processor.banned_token_ids, -100.0)

    def generate(
        self, images: Sequence[Image.Image], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Completion]]:
        """`sampling.completions` completions for each image, in order."""
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                n=sampling.completions,
                temperature=sampling.temperature,
                seed=seed,
                max_tokens=sampling.max_tokens,
                logprobs=0 if sampling.logprobs else None,
                flat_logprobs=sampling.logprobs,
                logit_bias=self._bias,
                stop_token_ids=self.processor.stop_token_ids,
                detokenize=False,
            )
            for seed in seeds
        ]
        prompts = [
            {"prompt_token_ids": self.processor.prompt_token_ids, "multi_modal_data": {"image": image}}
            for image in images
        ]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [
            [_completion(output) for output in sorted(request.outputs, key=lambda output: output.index)]
            for request in outputs
        ]

    def load(self, weights: Iterable[tuple[str, Any]]) -> int:
        """Assign every parameter (`(name, tensor)` pairs, names as in transformers) and forget all that old weights left.

        Raises `rapo.errors.WeightError` where a parameter was not assigned.
        """
        if self._in_many_processes:
            weights = list(weights)  # an iterator does not travel to the workers of a tensor-parallel engine
        assigned = self._llm.collective_rpc("rapo_load_weights", args=(weights,))
        # Prefix blocks, processed inputs and vision features were all computed with the old weights.
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        return int(assigned[0])


def _completion(output: Any) -> Completion:
    token_ids = np.asarray(output.token_ids, dtype=np.int32)
    logprobs = None
    if output.logprobs is not None:
        logprobs = np.asarray(output.logprobs.logprobs, dtype=np.float32)
        if len(logprobs) != len(token_ids):
            raise RuntimeError(f"{len(logprobs)} log-probs for {len(token_ids)} tokens: the engine broke its contract")
    return Completion(token_ids, logprobs, output.finish_reason)
