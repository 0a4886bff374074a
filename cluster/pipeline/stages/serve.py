"""The end of a run: serve the export, score test images over gRPC, and compare with what evaluation
said of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.files.parquet import read_parquet, write_parquet
from cluster.files.run_folder import RunFolder
from rapo.config import Config
from rapo.models.card import read_card


def score_over_grpc(config: Config, folder: RunFolder, progress: Callable[[int], None]) -> dict[str, Any]:
    """Score `serve.demo_images` test images through the gateway; `DIR/serve/scores.parquet` and the
    figures."""
    from rapo.client.sync import ScorerClient
    from services.app import ScorerServer

    expected = read_parquet(folder / "evaluate" / "rapo.parquet")[: config.serve.demo_images]
    card = read_card(folder / "export")
    rows: list[dict[str, Any]] = []
    # The evaluation's own readout: what is compared is the service, not two ways to take a score.
    settings = config.serve.model_copy(update={"readout": "greedy"})
    config = config.model_copy(update={"serve": settings})
    with ScorerServer(config, folder / "export", card.version) as server, ScorerClient(server.address) as client:
        began = time.perf_counter()
        for outcome, row in zip(client.score_many([Path(r["path"]) for r in expected]), expected, strict=True):
            score = outcome.result.score if outcome.result is not None else None
            error = str(outcome.error) if outcome.error is not None else None
            rows.append({"image": row["path"], "aesthetic_score": score, "evaluated": row["score"], "error": error})
            progress(len(rows))
        seconds = time.perf_counter() - began
    (folder / "serve").mkdir(exist_ok=True)
    write_parquet(folder / "serve" / "scores.parquet", rows)
    pairs = [
        (r["aesthetic_score"], r["evaluated"])
        for r in rows
        if r["aesthetic_score"] is not None and r["evaluated"] is not None
    ]
    return {
        "images": len(rows),
        "failed": sum(r["error"] is not None for r in rows),
        "scoring_seconds": seconds,
        "max_abs_difference": max((abs(a - b) for a, b in pairs), default=None),
    }
