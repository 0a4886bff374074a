"""StartCheck: refuses a run whose sampler and learner compute different policies.

- In the first step both have the same weights, so that their log-probs of the sampled tokens may
  differ by the rounding of the dtype only. More means another prompt, another image or another
  architecture on one of the two sides, and a gradient of another policy than the one sampled.
- It looks once, before that update is published or saved. Updates without a measurement are passed
  over: their groups were all flat, or no token of them was sampled with the learner's own weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from cluster.training.metrics_file import recorded_rows
from rapo.config import Config
from rapo.errors import ModelError
from rapo.models.folder import model_type

#: Nats per token (k3 estimate) that rounding stays below: some 1e-9 in float32, up to .01 in
#: bfloat16 for models of billions of parameters. A tiny model whose four image tokens are masked
#: otherwise on the two sides differs by 6e-6.
BOUNDS = {"float32": 2e-6, "bfloat16": 0.05}


class StartCheck:
    """The check of one run, whose start model is the folder `model`. `out` has the metrics of the
    steps that an earlier process made."""

    def __init__(self, config: Config, model: Path, out: Path) -> None:
        self._dtype, watch = config.policy.dtype, config.rapo.watch
        self._bound = BOUNDS[self._dtype] if watch.start_mismatch_kl is None else watch.start_mismatch_kl
        self._enabled = watch.enabled
        self._model, self._out = model, out
        self._unmeasured: int | None = None

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Look at the `figures` of the update after `step` updates. Raises `ModelError` where they
        are the first that have a `mismatch_kl`, and it is above the bound.

        What is not finite is left to the alerts.
        """
        if self._unmeasured is None:
            rows = recorded_rows(self._out, step)
            self._unmeasured = sum(1 for _ in takewhile(lambda row: row.get("mismatch_kl") is None, rows))
        if step != self._unmeasured or not self._enabled:
            return
        if (mismatch := figures.get("mismatch_kl")) is None:
            self._unmeasured += 1
            return
        if not math.isfinite(mismatch) or mismatch <= self._bound:
            return
        raise ModelError(
            f"sampler and learner compute different policies of this {model_type(self._model)!r}: in step {step + 1}, the "
            f"first that tells, their KL is {mismatch:.1e} nats per token; rounding in {self._dtype} stays below "
            f"{self._bound:.0e}. The gradient would be of another policy than the one that is sampled. With policy.dtype = "
            f"'float32' the difference of a sound model is below {BOUNDS['float32']:.0e}, and learner.packing = 'rows' "
            "computes each prompt as transformers does: where neither helps, vLLM and transformers do not agree on this "
            "family, and it cannot be trained with these versions. To go on all the same raise "
            "rapo.watch.start_mismatch_kl."
        )
