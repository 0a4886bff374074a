"""Export: writes the selected model as a folder that plain transformers and plain vLLM load."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster.files.atomic import write_json
from cluster.pipeline.results import ExportResult
from rapo.config import Config
from rapo.models.card import CARD, weights_version
from rapo.models.folder import check_model_folder
from rapo.util.atomic_dir import whole_folder

#: What the configuration may say of the size at which the model sees an image.
_LIMITS = ("min_pixels", "max_pixels")


def export_model(config: Config, model: Path, out: Path, facts: Mapping[str, object]) -> ExportResult:
    """Copy `model` to `out` with a card that says what it is and how to ask it, `facts` included.
    The folder appears whole or not at all."""
    # Not at the top: the commands that import this module start faster without transformers.
    from rapo.policy.processing import PolicyProcessor

    check_model_folder(model)
    with whole_folder(out) as aside:
        shutil.copytree(model, aside)
        version = weights_version(aside)
        card = {
            "version": version,
            "score_range": [0.0, 1.0],
            "prompt": PolicyProcessor(model).prompt,
            "pixels": {name: limit for name in _LIMITS if (limit := getattr(config.policy, name)) is not None},
            "seed": config.run.seed,
            "engine": {
                "dtype": config.policy.dtype,
                "max_completion_tokens": config.policy.max_completion_tokens,
                "max_model_len": config.rollout.engine.max_model_len,
            },
            **facts,
        }
        write_json(aside / CARD, card)
    return ExportResult(version)
