"""vLLM as a user without rapo would call it: `LLM.generate` on all prompts of a round."""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from rapo.config import Config
from rapo.util.seeds import derive_seed


@ray.remote
class BareEngine:
    """An `LLM` with the engine settings of the rollout worker."""

    def __init__(self, config: Config, model_dir: str) -> None:
        from vllm import LLM

        from rapo.inference.engine import engine_arguments
        from rapo.policy.processing import PolicyProcessor

        self._config = config
        self._processor = PolicyProcessor(model_dir)
        arguments = engine_arguments(model_dir, config.rollout.engine, dtype=config.policy.dtype, seed=0)
        del arguments["worker_extension_cls"]
        self._llm = LLM(**arguments, disable_log_stats=True)

    def ready(self) -> bool:
        return True

    def generate(self, images: Sequence[bytes], uids: Sequence[str], step: int) -> float:
        """Seconds of one round, from encoded images to tokens with log-probs."""
        from vllm import SamplingParams

        from rapo.images.decode import decode_image

        began = time.perf_counter()
        prompts = [
            {"prompt_token_ids": self._processor.prompt_token_ids, "multi_modal_data": {"image": decode_image(data)}}
            for data in images
        ]
        parameters = [
            SamplingParams(
                n=self._config.rapo.completions,
                temperature=self._config.rapo.sampling.temperature,
                seed=derive_seed(self._config.run.seed, uid, step),
                max_tokens=self._config.policy.max_completion_tokens,
                ignore_eos=True,
                logprobs=0,
                flat_logprobs=True,
                logit_bias=dict.fromkeys(self._processor.banned_token_ids, -100.0),
                detokenize=False,
            )
            for uid in uids
        ]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        assert all(len(c.token_ids) == self._config.policy.max_completion_tokens for o in outputs for c in o.outputs)
        return time.perf_counter() - began
