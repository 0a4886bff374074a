"""Card: the facts about an exported model in `rapo.json` beside its weights (version, native scale,
dtype and lengths, calibrated intervals)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from rapo.algorithm.conformal import Bin, Calibration
from rapo.config import Config
from rapo.errors import ModelError

CARD = "rapo.json"


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of a data set's own scores."""

    name: str
    low: float
    high: float

    def native(self, score: float) -> float:
        """The score on this scale of a `score` in [0, 1]."""
        return self.low + score * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Card:
    """`version` names the weights; `engine` holds the dtype and the lengths of the training.
    `interval` is None where the model was not calibrated."""

    version: str
    scales: tuple[Scale, ...] = ()
    engine: dict[str, object] = field(default_factory=dict)
    interval: Calibration | None = None


class _BinFile(TypedDict):
    start: float
    n: int
    low: float
    high: float


class _IntervalFile(TypedDict):
    coverage: float
    readout: str
    n: int
    bins: list[_BinFile]


class _SetFacts(TypedDict):
    native_range: tuple[float, float]
    normalizer: str


class _CardFile(TypedDict, total=False):
    version: str
    dataset: str
    native_range: tuple[float, float] | None
    normalizer: str | None
    sets: dict[str, _SetFacts]
    engine: dict[str, object]
    interval: _IntervalFile | None


def read_card(folder: str | Path) -> Card:
    """The card in a model folder; without one, a card that only names the weights. Raises
    `ModelError` where the card is damaged."""
    path = Path(folder) / CARD
    if not path.is_file():
        return Card(weights_version(Path(folder)))
    try:
        content: _CardFile = json.loads(path.read_text(encoding="utf-8"))
        version, engine = str(content["version"]), dict(content.get("engine", {}))
        scales, interval = _scales(content), _interval(content)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no card of a model ({error!r}). Export the model again, or remove it.") from error
    return Card(version, scales, engine, interval)


def with_card(config: Config, card: Card) -> Config:
    """The configuration with the dtype and the lengths on the card."""
    engine = card.engine
    policy: dict[str, object] = {key: engine[key] for key in ("dtype", "max_completion_tokens") if key in engine}
    rollout = config.rollout
    if "max_model_len" in engine:
        lengths = rollout.engine.model_copy(update={"max_model_len": engine["max_model_len"]})
        rollout = rollout.model_copy(update={"engine": lengths})
    return config.model_copy(update={"policy": config.policy.model_copy(update=policy), "rollout": rollout})


def weights_version(folder: Path) -> str:
    """The name of a folder's weights: the first 12 hex digits of the SHA-256 over all its
    safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:12]


def _scales(content: _CardFile) -> tuple[Scale, ...]:
    if sets := content.get("sets"):
        return tuple(_scale(name, one["native_range"], one["normalizer"]) for name, one in sets.items())
    native = content.get("native_range")
    if native is None:
        return ()
    return (_scale(str(content.get("dataset", "native")), native, content.get("normalizer")),)


def _scale(name: str, native: tuple[float, float], normalizer: str | None) -> Scale:
    low, high = (float(end) for end in native)
    # The normalizer "max" divides by the top of the scale, so that a score of 0 is 0 on both
    # scales.
    return Scale(name, 0.0 if normalizer == "max" else low, high)


def _interval(content: _CardFile) -> Calibration | None:
    kept = content.get("interval")
    if kept is None:
        return None
    bins = tuple(Bin(float(one["start"]), int(one["n"]), float(one["low"]), float(one["high"])) for one in kept["bins"])
    if not bins:
        raise ValueError("interval.bins is empty")
    return Calibration(float(kept["coverage"]), str(kept["readout"]), int(kept["n"]), bins)
