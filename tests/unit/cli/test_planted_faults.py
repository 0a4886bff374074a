"""Planted faults: `rapo check` finds each of them, in one line that says what to do.

One table of rows says everything: the fault's name, what plants it, and what the line must hold.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from label_files import make_image, rated, table
from typer.testing import CliRunner

from cluster.cli import check_fit
from cluster.cli.main import app
from rapo.config import load_config

LONGEST = 500

#: Plants a fault in a folder with a good table `t.csv` of 30 images, and returns settings.
Plant = Callable[[Path], list[str]]


def rows(folder: Path, change: Callable[[list[dict[str, object]]], object]) -> list[str]:
    """Write the table again with changed rows."""
    found = [dict(row) for row in rated(30)]
    change(found)
    table(folder / "t.csv", found, images=False)
    return []


def lines(folder: Path, change: Callable[[str], str]) -> list[str]:
    """Write the table again as changed text."""
    path = folder / "t.csv"
    path.write_text(change(path.read_text()))
    return []


def set_all(rows: list[dict[str, object]], **values: object) -> None:
    for row in rows:
        row.update(values)


def leak(folder: Path) -> list[str]:
    shutil.copy(folder / "img/0.png", folder / "img/29.png")
    rows(folder, lambda found: [row.update(split="test" if i > 20 else "train") for i, row in enumerate(found)])
    return []


def long(folder: Path) -> list[str]:
    make_image(folder / "img/7.png", 7, size=1200)
    return ["policy.max_pixels=1_000_000"]


def alone(folder: Path) -> list[str]:
    long(folder)
    rows(folder, lambda found: [row.update(split="test" if i == 7 else "train") for i, row in enumerate(found)])
    return ["policy.max_pixels=1_000_000"]


def upper_case(folder: Path) -> list[str]:
    return rows(folder, lambda found: [row.update(image=f"img/{i}.PNG") for i, row in enumerate(found) if i % 2])


def copied(folder: Path, model: Path, name: str, lost: str = "") -> list[str]:
    shutil.copytree(model, folder / name)
    if lost:
        (folder / name / lost).unlink()
    return [f"policy.model={folder / name}"]


DATA: dict[str, tuple[Plant, str]] = {
    "quotation mark": (lambda d: lines(d, lambda t: t.replace("img/4", '"img/4', 1)), "Remove the mark"),
    "doubled column": (
        lambda d: lines(d, lambda t: t.replace("image,score", "score,score", 1)),
        "has no column 'image'",
    ),
    "score twice": (
        lambda d: lines(d, lambda t: t.replace("\n", ",1\n").replace("score,1", "score,score")),
        "has the column 'score' twice (columns 2 and 3); keep one",
    ),
    "underscore": (lambda d: rows(d, lambda r: r[3].update(score="0_5")), "an underscore where a decimal point"),
    "outside the range": (lambda d: rows(d, lambda r: r[3].update(score=7)), "data.score_range"),
    "impossible spread": (lambda d: rows(d, lambda r: set_all(r, std=12)), "declare data.std_range"),
    "spread beside the mean": (lambda d: rows(d, lambda r: set_all(r, score=0.01, std=0.4)), "such a mean and such"),
    "equal labels": (lambda d: rows(d, lambda r: set_all(r, score=0.5)), "all 30 scores are 0.5"),
    "half is missing": (upper_case, "'img/1.PNG' is there as 'img/1.png': upper and lower case differ"),
    "too long": (long, "lower policy.max_pixels, or raise rollout.engine.max_model_len"),
    "no test image of use": (alone, "none of the 1 images of the test split can be used"),
    "train in test": (leak, "1 images are in a later split too and are left out (data.contamination)"),
    "one row": (lambda d: rows(d, lambda r: r.__delitem__(slice(1, None))), "1 image cannot be divided into"),
    "a fraction of 1": (lambda d: ["data.validation_fraction=1.0"], "their sum must be below 1"),
    "mistyped path": (lambda d: [f"data.path={d / 'tt.csv'}"], "does not exist"),
}

SETTINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "pixel limits": (("policy.max_pixels=10_000", "policy.min_pixels=20_000"), "raise policy.max_pixels, or lower"),
    "the model's least": (("policy.max_pixels=1000",), "at least 3,136 (of the model) and at most 1,000"),
    "room for a prompt": (("policy.max_completion_tokens=500",), "leaves 12 tokens for a prompt"),
    "memory": (("rollout.engine.kv_cache_gib=90_000",), "lower kv_cache_gib of the engine"),
    "GPUs": (("learner.gpus=1",), "needs 2 GPUs, this machine has 0: lower"),
    "temporary folder": ((f"ray.temp_dir=/tmp/{'x' * 90}",), "Give a shorter one by ray.temp_dir"),
    "object store": (("ray.object_store_mib=90_000_000",), "Free some, or enlarge it"),
    "steps and ranks": (("rapo.images_per_step=1", "learner.workers=2"), "raise it, or lower learner.workers"),
    "sigma of no set": (("rapo.reward.sigma={t = 0.1, tt = 0.1}",), "names the data set 'tt', but there is only t"),
    "broadcast": (
        ("rollout.weight_transport=broadcast", "rollout.engine.tensor_parallel_size=2"),
        "rollout.weight_transport",
    ),
    "two readouts": (("serve.readout=greedy",), "set both alike"),
    "soft ties": (("rapo.reward.ties=soft",), "needs the raters' spread (std)"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table(tmp_path / "t.csv", rated(30))
    monkeypatch.setattr(check_fit, "nvidia_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def check(folder: Path, settings: list[str]) -> list[str]:
    """What `rapo check` finds, a line each."""
    every = [f"data.path={folder / 't.csv'}", "serve.port=0", *settings]
    done = CliRunner().invoke(app, ["check", *(part for item in every for part in ("--set", item))])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found = [line for line in done.output.splitlines() if line.startswith(("wrong:", "warning:"))]
    assert done.exit_code == (2 if any(line.startswith("wrong:") for line in found) else 0)
    assert all(len(line) <= LONGEST for line in found), found
    return found


def test_nothing_is_found_where_nothing_was_planted(folder: Path) -> None:
    assert check(folder, []) == []


def test_fewer_images_than_a_step_asks_for_are_said(folder: Path) -> None:
    def line(*settings: str) -> str:
        every = [f"data.path={folder / 't.csv'}", "serve.port=0", *settings]
        done = CliRunner().invoke(app, ["check", *(part for item in every for part in ("--set", item))])
        return next(line for line in done.output.splitlines() if line.startswith("rapo "))

    words = "images (all there are for training; rapo.images_per_step = 64) x"
    assert f"7 {words}" in line("data.max_train=7")
    assert words in line()
    assert " steps of 8 images x" in line("rapo.images_per_step=8")


@pytest.mark.parametrize("character", ["[", "]", "*", "?"])
def test_a_pattern_is_no_folder_of_a_run(tmp_path: Path, character: str) -> None:
    """The run's own models lie below it."""
    done = CliRunner().invoke(app, ["run", "--out", str(tmp_path / f"runs{character}")])
    assert "which vLLM takes for a pattern" in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", DATA)
def test_of_the_data(folder: Path, name: str) -> None:
    plant, words = DATA[name]
    (line,) = check(folder, plant(folder))
    assert words in line


@pytest.mark.parametrize("name", SETTINGS)
def test_of_machine_and_pairs_of_keys(folder: Path, name: str) -> None:
    settings, words = SETTINGS[name]
    (line,) = check(folder, list(settings))
    assert words in line


@pytest.mark.parametrize(
    ("name", "lost", "more", "words"),
    [
        ("[v1]", "", [], "which vLLM takes for a pattern"),
        ("bare", "tokenizer_config.json", [], "copy the tokenizer beside the weights"),
        ("weightless", "model.safetensors", [], "the weights are missing"),
        ("large", "", ["ray.object_store_mib=100"], "two weight versions of 400 MiB are held at a time; set it to 889"),
    ],
)
def test_of_the_model_folder(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, name: str, lost: str, more: list[str], words: str
) -> None:
    if name == "large":
        monkeypatch.setattr(check_fit, "_parameters", lambda model: 100 * 2**20)
    settings = [*copied(folder, tiny_model, name, lost), "coldstart.learning_rate=1e-5", "rapo.learning_rate=1e-6"]
    (line,) = check(folder, settings + more)
    assert words in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("rollout.engine.tensor_parallel_size=2",), "does not reach the 2 processes of a split engine"),
        (("learner.gpus=1",), "give both roles GPUs or none"),
        (("learner.gpus=0.5", "rollout.gpus=1"), "NCCL refuses two members on one GPU"),
        (("learner.gpus=1", "rollout.gpus=1"), ""),
        ((), ""),
    ],
)
def test_of_roles_that_no_broadcast_connects(settings: tuple[str, ...], words: str) -> None:
    config = load_config(None, ["rollout.weight_transport=broadcast", *settings])
    found = list(check_fit.transport_problems(config))
    assert len(found) == bool(words)
    assert all(words in line and "set rollout.weight_transport = 'object_store'" in line for line in found)
    assert not list(check_fit.transport_problems(load_config(None, settings))), "the object store connects all"


def test_several_are_all_found(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"serve.port={taken.getsockname()[1]}"
        found = check(folder, [port, "learner.workers=99", "ray.temp_dir=/dev/null/x", *long(folder)])
    for words in ("is in use", "raise it, or lower learner.workers", "cannot be written", "1200 x 1200 pixels"):
        assert sum(words in line for line in found) == 1, words
    assert len(found) == 4


@pytest.mark.parametrize(
    ("stages", "needed"), [(("aescot",), ""), (("coldstart",), ""), (("evaluate",), "2 GPUs"), (("rapo",), "4 GPUs")]
)
def test_only_the_stages_that_are_to_run_need_the_machine(
    monkeypatch: pytest.MonkeyPatch, stages: tuple[str, ...], needed: str
) -> None:
    monkeypatch.setattr(check_fit, "nvidia_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = load_config(None, ["rollout.gpus=1", "learner.gpus=1"])
    found = list(check_fit.machine_problems(config, stages))
    assert len(found) == bool(needed)
    assert all(f"needs {needed}, this machine has 0" in line for line in found)


@pytest.mark.parametrize(("stage", "gib"), [(0, 36), (1, 20), (2, 16), (3, 12)])
def test_zero_divides_what_training_needs(stage: int, gib: int) -> None:
    """2^30 parameters in bfloat16 on three ranks: weights and gradients of 2 GiB, moments of 8."""
    assert check_fit._training(load_config(None, ["policy.dtype=bfloat16"]), 2**30, 3, stage) == gib
