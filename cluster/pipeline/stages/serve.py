"""Serving test: serves the export for a moment, scores test images over gRPC, and compares the
scores with those of the evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.files.parquet import write_parquet
from cluster.files.predictions import read_predictions
from cluster.files.run_folder import RunFolder
from cluster.pipeline.results import ServeResult
from rapo.config import Config
from rapo.models.card import read_card


def score_over_grpc(
    config: Config, folder: RunFolder, progress: Callable[[int], None], where: Callable[[Path], Path]
) -> ServeResult:
    """Score `serve.demo_images` test images through the gateway; writes `DIR/serve/scores.parquet`.
    `where` says where the replicas find the exported model."""
    from rapo.client.sync import ScorerClient
    from services.app import ScorerServer

    predictions = read_predictions(folder / "evaluate" / "rapo.parquet")[: config.serve.demo_images]
    evaluated = [(Path(row.path), row.score) for row in predictions if row.path is not None]
    card = read_card(folder / "export")
    rows: list[dict[str, object]] = []
    differences: list[float] = []
    # The evaluation's own readout: the service is compared, not two ways to take a score.
    settings = config.serve.model_copy(update={"readout": config.evaluate.readout, "samples": config.evaluate.samples})
    config = config.model_copy(update={"serve": settings})
    with ScorerServer(config, where(folder / "export"), card.version) as server, ScorerClient(server.address) as client:
        began = time.perf_counter()
        outcomes = client.score_many([path for path, _ in evaluated])
        for outcome, (path, expected) in zip(outcomes, evaluated, strict=True):
            score = outcome.result.score if outcome.result is not None else None
            error = str(outcome.error) if outcome.error is not None else None
            rows.append({"image": str(path), "aesthetic_score": score, "evaluated": expected, "error": error})
            if score is not None and expected is not None:
                differences.append(abs(score - expected))
            progress(len(rows))
        seconds = time.perf_counter() - began
    (folder / "serve").mkdir(exist_ok=True)
    write_parquet(folder / "serve" / "scores.parquet", rows)
    return ServeResult(
        images=len(rows),
        failed=sum(row["error"] is not None for row in rows),
        scoring_seconds=seconds,
        max_abs_difference=max(differences, default=None),
    )
