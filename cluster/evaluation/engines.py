"""Engines: model folders that answer through the rollout workers of a run.

- One fleet serves all models that differ in nothing but weights, under the same settings, because
  an engine takes long to start; they are loaded one after the other. A worker keeps the tokenizer,
  the processor and the chat template that it was started with.
- A run's models are asked with that run's settings. Other folders are asked with those of the
  command, and with the dtype and the lengths on their card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.evaluation.models import FolderModel
from cluster.remote.ray_session import ray_session
from cluster.rollout.fleet import Fleet
from rapo.config import Config, dump_config, load_config
from rapo.errors import ImageError
from rapo.images.decode import check_image_file
from rapo.models.card import CARD, read_card, with_card
from rapo.models.prompt_length import prompt_length
from rapo.models.separate_check import parameters_checked
from rapo.records import ImageRecord, Prediction

#: Images that a worker is asked for at a time. What is answered is kept before the next.
_CHUNK = 256

# The lengths for a folder without a card, where the command names no configuration: those of the
# embedded model would cut every answer of a pre-trained one.
_COMPLETION_TOKENS, _MODEL_LENGTH = 1024, 8192


def model_config(model: FolderModel, base: Config, path: Path | None, overrides: Sequence[str]) -> tuple[Config, str]:
    """The configuration that a model is asked with, and what to say about it. `base` is what `path`
    and `overrides` make, the command's own."""
    if model.run is not None:
        config, words = load_config(model.run / "config.toml", overrides), ""
    elif (model.folder / CARD).is_file():
        config, words = with_card(base, read_card(model.folder)), ""
    elif path is None:
        lengths = (
            f"policy.max_completion_tokens={_COMPLETION_TOKENS}",
            f"rollout.engine.max_model_len={min(_MODEL_LENGTH, _longest(model.folder))}",
        )
        config = load_config(None, [*lengths, *overrides])
        policy, engine = config.policy, config.rollout.engine
        words = (
            f"{model.name} has no {CARD}: its answers end after {policy.max_completion_tokens} tokens "
            f"(policy.max_completion_tokens), prompt and answer have {engine.max_model_len} "
            "(rollout.engine.max_model_len); --set or --config changes that"
        )
    else:
        config, words = base, ""
    return config.model_copy(update={"evaluate": base.evaluate, "run": base.run, "ray": base.ray}), words


def fitting(
    model: FolderModel, config: Config, records: Sequence[ImageRecord]
) -> tuple[list[ImageRecord], list[Prediction]]:
    """The records whose prompts fit, and predictions without a score for the others."""
    # A served folder resizes images by its own limits.
    policy = config.policy.model_copy(update={"model": str(model.folder), "min_pixels": None, "max_pixels": None})
    length = prompt_length(config.model_copy(update={"policy": policy}))
    if length is None:
        return list(records), []
    fit, refused = [], []
    for record in records:
        try:
            if record.path is not None:
                length.check(*check_image_file(record.path, config.image, decode=False))
        except ImageError as error:
            readout = config.evaluate.readout
            refused.append(Prediction(record.uid, record.dataset, record.score, None, "", error.reason, readout))
        else:
            fit.append(record)
    return fit, refused


def settings_digest(folder: Path) -> str:
    """A digest of what a model folder says beside its weights: architecture, tokenizer, processor
    and chat template. rapo's card, which holds no more than facts, has no part in it."""
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.json"), *folder.glob("*.jinja"))):
        if path.name != CARD:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _longest(folder: Path) -> int:
    """The most tokens that a model takes, as its folder says."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = content.get("text_config") or {}
    return int(content.get("max_position_embeddings") or text.get("max_position_embeddings") or _MODEL_LENGTH)


class Engines:
    """Starts engines when the first model is asked. A context manager."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()
        self._fleet: Fleet | None = None
        self._kind = ""
        self._version = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_fleet()
        self._cleanup.close()

    def predict(
        self,
        model: FolderModel,
        config: Config,
        records: Sequence[ImageRecord],
        keep: Callable[[Sequence[Prediction]], None],
    ) -> None:
        """Have a model predict records; `keep` gets the predictions, some at a time. An image whose
        prompt is too long for the model has no score, and the engine is not asked."""
        records, refused = fitting(model, config, records)
        if refused:
            keep(refused)
        if not records:
            return
        fleet = self._loaded(model, config)
        size = _CHUNK * max(1, len(fleet))
        for start in range(0, len(records), size):
            keep(fleet.predictions([records[index] for index in range(start, min(start + size, len(records)))]))

    def _loaded(self, model: FolderModel, config: Config) -> Fleet:
        """A fleet that holds the model."""
        kind = dump_config(config) + settings_digest(model.folder)
        self._version += 1
        if self._fleet is not None and kind == self._kind:
            self._fleet.load_folder(model.folder, self._version)
            return self._fleet
        self._close_fleet()
        with parameters_checked([model.folder]):
            self._cleanup.enter_context(ray_session(config))
            self._fleet, self._kind = Fleet(config), kind
            self._fleet.start(model.folder, self._version)
        self._fleet.ready()
        return self._fleet

    def _close_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
