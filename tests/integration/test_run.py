"""The command line on the real parts, as a new user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.files.jsonl import read_jsonl
from rapo.datasets.scenes import render_scene
from rapo.models.card import read_card
from tests.small import rapo, settings

pytestmark = [pytest.mark.integration, pytest.mark.gpu]


def test_report_holds_what_the_design_names(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    for stage in ("data", "aescot", "coldstart", "rapo", "evaluate", "export", "serve"):
        assert report["stages"][stage]["seconds"] > 0
    aescot = report["aescot"]
    assert aescot["generated"] == 64
    assert aescot["kept"] + sum(aescot["rejected"].values()) == 64
    for model in ("coldstart", "rapo"):
        assert report["evaluate"][model]["n"] == 24
        assert {"srcc", "plcc", "krcc", "mae", "parse_rate"} <= report["evaluate"][model].keys()
    interval = report["evaluate"]["rapo"]["interval"]
    assert 0 < interval["calibration_n"] <= 16
    assert 0 < interval["mean_width"] <= 1
    card = read_card(finished / "export").interval
    assert card is not None
    assert (card.coverage, card.readout, card.n) == (0.5, interval["readout"], interval["calibration_n"])
    assert {"torch", "vllm", "ray", "deepspeed", "transformers"} <= report["versions"].keys()
    assert "<svg" in (finished / "report.html").read_text()


def test_sampler_and_learner_agree(finished: Path) -> None:
    rows: list[dict[str, Any]] = read_jsonl(finished / "rapo" / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6, 7]
    for row in steps:
        assert abs(row["mismatch_kl"]) < 1e-6
        assert set(row["seconds"]) == {"rollout", "reward", "learner", "weights"}
    assert len({row["grad_norm"] for row in steps}) > 1


def test_the_run_was_watched(finished: Path) -> None:
    status = json.loads(rapo("status", str(finished), "--json").stdout)
    assert status["driver"]["state"] == "finished"
    assert {stage["state"] for stage in status["stages"]} == {"finished"}
    assert (status["rapo"]["step"], len(status["rapo"]["validation"])) == (7, 1)
    events = json.loads((finished / "rapo" / "trace.json").read_text())["traceEvents"]
    roles = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert {"controller", "reward actor", "learner ranks", "rollout-0", "rollout-1"} <= roles
    spans = [event["name"] for event in events if event["ph"] == "X"]
    assert sum(name.startswith("load version") for name in spans) >= 4
    assert sum("version" in event["args"] for event in events if event["ph"] == "X") >= 4 * 8, "a span for each group"
    log = read_jsonl(finished / "rapo" / "log.jsonl")
    assert (log[0]["message"], log[-1]["message"]) == ("begins", "ends")
    assert any((finished / "rapo" / "tensorboard").iterdir())
    assert "gets no" not in (finished / "driver.log").read_text()


def test_served_scores_equal_the_evaluated_ones(finished: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(finished / "serve" / "scores.parquet").to_pylist()
    assert len(rows) == 6
    # An answer without a score is an error over gRPC and null in the evaluation.
    assert [row["aesthetic_score"] for row in rows] == [row["evaluated"] for row in rows]
    assert all((row["error"] is None) == (row["evaluated"] is not None) for row in rows)


@pytest.mark.long
def test_without_a_service_the_scores_are_the_same(finished: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    served = pq.read_table(finished / "serve" / "scores.parquet").to_pylist()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    images, table = [str(tmp_path / "broken.jpg"), *(row["image"] for row in served)], tmp_path / "scores.parquet"
    done = rapo("score", *images, "--model", str(finished / "export"), "-o", str(table))
    assert done.returncode == 1, done.stdout + done.stderr  # one image has no score
    broken, *rows = pq.read_table(table).to_pylist()
    assert broken["aesthetic_score"] is None
    assert "INVALID_ARGUMENT" in broken["error"]
    assert [row["aesthetic_score"] for row in rows] == [row["aesthetic_score"] for row in served]


def test_export_loads_in_plain_transformers_and_writes_what_the_engine_wrote(finished: Path) -> None:
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from rapo.answers.prompts import chat
    from rapo.policy.processing import PolicyProcessor

    torch.set_num_threads(1)
    folder = finished / "export"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    banned = PolicyProcessor(folder).banned_token_ids
    for row in pq.read_table(finished / "evaluate" / "rapo.parquet").to_pylist()[:3]:
        prompt = processor.apply_chat_template(chat(), tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[Image.open(row["path"]).convert("RGB")], return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=64, do_sample=False, suppress_tokens=banned)
        text = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]).removesuffix("<|im_end|>")
        # The readout `expected` ends with the tag that opens the answer.
        assert text.startswith(row["text"])
        assert row["text"].endswith("<answer>")


def test_run_again_skips_finished_stages(finished: Path) -> None:
    before = (finished / "rapo" / "metrics.jsonl").read_bytes()
    done = rapo("run", "--out", str(finished), *settings())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped: finished before") == 7
    assert (finished / "rapo" / "metrics.jsonl").read_bytes() == before


@pytest.mark.long
def test_run_goes_on_after_the_last_finished_stage(finished: Path) -> None:
    marks = {stage: finished / stage / "done.json" for stage in ("evaluate", "export", "serve")}
    kept = {stage: mark.read_bytes() for stage, mark in marks.items()}
    before = json.loads((finished / "evaluate" / "rapo.json").read_text())
    try:
        for mark in marks.values():
            mark.unlink()
        done = rapo("export", "--out", str(finished), *settings())
        assert done.returncode == 0, done.stderr
        assert json.loads((finished / "evaluate" / "rapo.json").read_text()) == before
        assert marks["evaluate"].is_file()
        assert not marks["serve"].is_file()
    finally:
        for stage, mark in marks.items():
            mark.write_bytes(kept[stage])


def test_another_configuration_is_refused_with_the_keys_named(finished: Path) -> None:
    done = rapo("run", "--out", str(finished), *settings("rapo.steps=5", "run.seed=3"))
    assert done.returncode == 2
    assert "rapo.steps: 7 -> 5" in done.stderr
    assert "run.seed: 0 -> 3" in done.stderr


@pytest.mark.long
def test_a_table_of_the_users_own_images_runs_to_the_end_one_step_ahead(tmp_path: Path) -> None:
    """Images of several sizes with native scores on 1..5, one of them broken; one worker of each
    kind."""
    rng = np.random.default_rng(5)
    lines = ["image,score,std"]
    for number in range(40):
        scene = render_scene(rng, 84 + 28 * (number % 3))
        image = Image.fromarray(scene.image)
        if number % 4 == 0:
            image = image.resize((140, 84))
        image.save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{1 + 4 * scene.score:.3f},0.5")
    broken = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(broken[: len(broken) // 2])
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    table = ("--set", f"data.path={tmp_path / 'scores.csv'}", "--set", "data.score_range=[1,5]")
    out = tmp_path / "out"
    ahead = ["coldstart.steps=10", "rapo.steps=4", "rapo.max_staleness=1", "rapo.images_per_step=100"]
    ahead += ["rapo.select=best", "rapo.evaluate_every=2", "serve.demo_images=0"]
    ahead += ["coldstart.workers=1", "learner.workers=1", "rollout.workers=1"]
    done = rapo("run", "--out", str(out), *settings(*ahead), *table)
    assert done.returncode == 0, done.stderr + (out / "driver.log").read_text()[-3000:]
    summary = json.loads((out / "data" / "summary.json").read_text())
    (skipped,) = summary["skipped_images"]
    assert skipped["image"].endswith("3.png")
    assert skipped["reason"] == "truncated"
    assert sum(summary["counts"].values()) == 39
    report = json.loads((out / "report.json").read_text())
    assert report["evaluate"]["rapo"]["n"] == summary["counts"]["test"]
    assert report["served"]["images"] == 0
    assert "over gRPC" not in (out / "report.html").read_text()
    rows = read_jsonl(out / "rapo" / "metrics.jsonl")
    # The sampler runs one batch ahead, so from the second step on its weights are one version
    # behind.
    assert [row["staleness_worst"] for row in rows if "loss" in row] == [0, 1, 1, 1]
