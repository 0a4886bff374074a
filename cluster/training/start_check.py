"""StartCheck: refuses a run whose sampler and learner compute different policies.

- In the first step both have the same weights, so that their log-probs of the sampled tokens may
  differ by the rounding of the dtype only. More means another prompt, another image or another
  architecture on one of the two sides, and a gradient of another policy than the one sampled.
- It looks once, before the first update is published or saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rapo.config import Config
from rapo.errors import ModelError
from rapo.models.folder import model_type

#: Nats per token (k3 estimate) that rounding stays below: some 1e-9 in float32, up to .01 in
#: bfloat16 for models of billions of parameters. A tiny model whose four image tokens are masked
#: otherwise on the two sides differs by 6e-6.
BOUNDS = {"float32": 2e-6, "bfloat16": 0.05}


def check_start(config: Config, model: Path, step: int, figures: Mapping[str, float]) -> None:
    """Raise `ModelError` where the `figures` of the update after `step` updates are those of the
    first one and its `mismatch_kl` is above the bound. `model` is the run's start model.

    What is not finite is left to the alerts.
    """
    watch, dtype = config.rapo.watch, config.policy.dtype
    bound = BOUNDS[dtype] if watch.start_mismatch_kl is None else watch.start_mismatch_kl
    mismatch = figures.get("mismatch_kl", 0.0)
    if step or not watch.enabled or not math.isfinite(mismatch) or mismatch <= bound:
        return
    raise ModelError(
        f"sampler and learner compute different policies of this {model_type(model)!r}: in the first step their KL is "
        f"{mismatch:.1e} nats per token; rounding in {dtype} stays below {bound:.0e}. The gradient would be of another "
        "policy than the one that is sampled. With policy.dtype = 'float32' the difference of a sound model is below "
        f"{BOUNDS['float32']:.0e}, and learner.packing = 'rows' computes each prompt as transformers does: where "
        "neither helps, vLLM and transformers do not agree on this family, and it cannot be trained with these "
        "versions. To go on all the same raise rapo.watch.start_mismatch_kl."
    )
