"""The card of an exported model, `rapo.json` beside its weights: which weights they are and how
they must be asked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapo.config import Config
from rapo.errors import ModelError

CARD = "rapo.json"


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of a data set's own scores. A score s in [0, 1] is `low + s * (high - low)` on
    it."""

    name: str
    low: float
    high: float

    def native(self, score: float) -> float:
        return self.low + score * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Card:
    """`version` names the weights; `engine` holds the dtype and lengths that the model was trained
    with."""

    version: str
    scales: tuple[Scale, ...] = ()
    engine: dict[str, Any] = field(default_factory=dict)


def read_card(folder: str | Path) -> Card:
    """The card in a model folder; one made from the weights where there is none. Raises
    `ModelError` where it is damaged."""
    path = Path(folder) / CARD
    if not path.is_file():
        return Card(weights_version(Path(folder)))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, engine = str(content["version"]), dict(content.get("engine", {}))
        scales = _scales(content)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no card of a model ({error!r}). Export the model again, or remove it.") from error
    return Card(version, scales, engine)


def with_card(config: Config, card: Card) -> Config:
    """The configuration with the lengths and the dtype that the model was trained with, as its card
    says."""
    engine = card.engine
    policy: dict[str, Any] = {key: engine[key] for key in ("dtype", "max_completion_tokens") if key in engine}
    rollout = config.rollout
    if "max_model_len" in engine:
        lengths = rollout.engine.model_copy(update={"max_model_len": engine["max_model_len"]})
        rollout = rollout.model_copy(update={"engine": lengths})
    return config.model_copy(update={"policy": config.policy.model_copy(update=policy), "rollout": rollout})


def weights_version(folder: Path) -> str:
    """A short name for exactly these weights: the first 12 hex digits of the SHA-256 over all
    safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:12]


def _scales(content: dict[str, Any]) -> tuple[Scale, ...]:
    native = content.get("native_range")
    if native is None:
        return ()
    low, high = (float(end) for end in native)
    # The normalizer "max" divides by the top of the scale, so that a score of 0 is 0 there, too.
    return (Scale(str(content.get("dataset", "native")), 0.0 if content.get("normalizer") == "max" else low, high),)
