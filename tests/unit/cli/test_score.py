"""`rapo score` behind its command line: what is found, what is written, what is shown."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from fake_scorer import FakeScorer, serving
from score_output import console, printed, read

from cluster.cli.score.command import score_paths
from cluster.cli.score.inputs import find_images
from cluster.cli.score.row import COLUMNS, NATIVE_COLUMNS, ScoreRow
from cluster.cli.score.table import ScoreTable
from rapo.client.sync import ScorerClient
from rapo.client.types import ScoreOptions
from rapo.errors import DataError, ServiceError


def test_folders_files_and_patterns_are_found_once_and_in_order(photos: Path) -> None:
    inside = [photos / name for name in ("a.PNG", "b.jpg", "broken.jpg", "deep/er/c.webp")]
    assert find_images([str(photos)]).images == inside
    assert find_images([str(photos / "*.jpg")]).images == [photos / "b.jpg", photos / "broken.jpg"]
    assert find_images([str(photos / "**" / "*.webp")]).images == inside[3:]
    assert find_images([str(photos / "notes.txt"), str(photos / "b.jpg"), str(photos)]).images == [
        photos / "notes.txt",
        photos / "b.jpg",
        *(path for path in inside if path.name != "b.jpg"),
    ]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "shot[1].jpg"
    path.touch()
    assert find_images([str(path)]).images == [path]


@pytest.mark.parametrize("names", [["missing.jpg"], ["*.nothing"], []])
def test_nothing_found_is_a_data_error(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        find_images(names)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_image_has_a_row_and_failures_a_null_score(
    client: ScorerClient, photos: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"scores{suffix}"
    progress = console()
    assert score_paths([str(photos)], client, output, progress=progress) == 1
    assert "3 of 4 images have a score" in printed(progress)
    rows = read(output)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [Path(str(row["image"])).name for row in rows] == ["a.PNG", "b.jpg", "broken.jpg", "c.webp"]
    assert numbers(rows, "aesthetic_score") == [0.75, 0.25, None, 0.5]
    assert numbers(rows, "aesthetic_score_std") == [0.1, 0.1, None, 0.1]
    assert numbers(rows, "interval_low") == pytest.approx([0.45, 0.0, None, 0.2])
    assert numbers(rows, "interval_high") == pytest.approx([0.85, 0.35, None, 0.6])
    assert numbers(rows, "interval_coverage") == [0.9, 0.9, None, 0.9]
    assert [row["model_version"] for row in rows] == ["v7", "v7", None, "v7"]
    assert [row["readout"] for row in rows] == ["expected", "expected", None, "expected"]
    assert rows[0]["rationale"] == "soft light"
    assert "not an image" in str(rows[2]["error"])
    assert rows[0]["error"] is None
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [output.name]


def numbers(rows: list[dict[str, object]], name: str) -> list[float | None]:
    return [None if row[name] is None else float(str(row[name])) for row in rows]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_again_scores_only_what_is_missing_or_failed(
    client: ScorerClient, scorer: FakeScorer, photos: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"scores{suffix}"
    score_paths([str(photos)], client, output, progress=console())
    before = read(output)
    (photos / "broken.jpg").write_text("33")
    (photos / "d.jpg").write_text("99")
    scorer.requests.clear()
    assert score_paths([str(photos)], client, output, progress=console()) == 0
    assert sorted(bytes(request.image) for request in scorer.requests) == [b"33", b"99"]
    after = read(output)
    assert [row for row in after if row["image"] in {row["image"] for row in before if not row["error"]}] == [
        row for row in before if not row["error"]
    ]
    assert numbers(after, "aesthetic_score") == [0.75, 0.25, 0.33, 0.99, 0.5]
    scorer.requests.clear()
    assert score_paths([str(photos)], client, output, progress=console()) == 0
    assert not scorer.requests
    assert score_paths([str(photos)], client, output, fresh=True, progress=console()) == 0
    assert len(scorer.requests) == 5


def test_a_crash_loses_no_row(client: ScorerClient, scorer: FakeScorer, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    for number in range(30):
        (photos / f"e{number:02}.jpg").write_text(str(number))
    scorer.delay_s = 0.1
    command = [
        sys.executable,
        "-m",
        "rapo",
        "score",
        str(photos),
        "-o",
        str(output),
        "--server",
        client.target,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "scores.csv.partial.jsonl"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.read_text().count("\n") >= 5):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(10)
    assert not output.exists()
    with partial.open("a") as file:
        file.write('{"image": "torn')
    known = partial.read_text().count("\n")
    scorer.requests.clear()
    scorer.delay_s = 0
    assert score_paths([str(photos)], client, output, progress=console()) == 1
    assert len(scorer.requests) <= 34 - known + 1  # the one that failed is tried again
    rows = read(output)
    assert len(rows) == 34
    assert sum(row["aesthetic_score"] is not None for row in rows) == 33
    assert not partial.exists()


def test_a_service_that_dies_leaves_what_is_scored(scorer: FakeScorer, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    scorer.breaks = [2]
    with serving(scorer) as target, ScorerClient(target, timeout=10, attempts=1) as client:
        with pytest.raises(ServiceError, match="2 of 4 images are scored"):
            score_paths([str(photos / name) for name in ("a.PNG", "b.jpg", "deep", "notes.txt")], client, output)
        assert score_paths([str(photos)], client, output, progress=console()) == 1
    names = [Path(str(row["image"])).name for row in read(output)]
    assert names == ["notes.txt", "a.PNG", "b.jpg", "broken.jpg", "c.webp"][-len(names) :]


def test_scores_of_two_kinds_do_not_mix(client: ScorerClient, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    one = [str(photos / "b.jpg")]
    assert score_paths(one, client, output, progress=console()) == 0
    others: list[ScoreOptions] = [{"readout": "greedy"}, {"model_version": "v6"}, {"native_scale": "ava"}]
    for options in others:
        with pytest.raises(DataError, match="--fresh"):
            score_paths(one, client, output, options)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [output.name]
    assert score_paths(one, client, output, {"native_scale": "ava", "rationale": False}, fresh=True) == 0
    (row,) = read(output)
    assert (row["native_score"], row["native_scale"], row["rationale"]) == ("3.25", "ava", None)


def test_the_columns_are_those_of_a_row() -> None:
    assert tuple(field.name for field in fields(ScoreRow)) == (*COLUMNS, *NATIVE_COLUMNS, "foreign")


def test_another_file_is_not_taken_for_a_table(client: ScorerClient, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    output.write_text("name,age\nx,3\n")
    with pytest.raises(DataError, match="no table"):
        score_paths([str(photos)], client, output)
    assert output.read_text().startswith("name,age")


def test_two_at_once_do_not_write_one_output(client: ScorerClient, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    with ScoreTable(output, COLUMNS), pytest.raises(DataError, match="another"):
        score_paths([str(photos)], client, output)


def test_a_listed_file_that_is_gone_gets_a_row(client: ScorerClient, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    listed = [f"{photos / 'b.jpg'}\n", "\n", f"{photos / 'gone.jpg'}\n", str(photos / "deep")]
    assert score_paths(["-"], client, output, listed=listed, progress=console()) == 1
    rows = read(output)
    assert numbers(rows, "aesthetic_score") == [0.25, None, 0.5]
    assert "cannot read" in str(rows[1]["error"])


def test_a_parquet_file_of_failures_alone_keeps_its_types(client: ScorerClient, photos: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    output = tmp_path / "scores.parquet"
    assert score_paths([str(photos / "broken.jpg")], client, output, progress=console()) == 1
    assert str(pq.read_schema(output).field("aesthetic_score").type) == "double"


def test_without_an_output_the_table_is_sorted_and_literal(client: ScorerClient, photos: Path) -> None:
    shown = console()
    odd = photos / "[bold]odd[/bold].jpg"
    odd.parent.mkdir(parents=True, exist_ok=True)
    odd.write_text("50")
    paths = [str(photos / "b.jpg"), str(photos / "a.PNG"), str(odd)]
    assert score_paths(paths, client, None, console=shown, progress=console()) == 0
    text = printed(shown)
    assert "90 % interval" in text
    assert text.index("0.45 to 0.85") < text.index("0.20 to 0.60") < text.index("0.00 to 0.35")
    assert "[bold]odd[/bold].jpg" in text


def test_the_table_has_no_interval_where_no_score_has_one(client: ScorerClient, photos: Path) -> None:
    shown = console()
    paths = [str(photos / "broken.jpg"), str(photos / "b.jpg")]
    assert score_paths(paths, client, None, {"readout": "greedy"}, console=shown, progress=console()) == 1
    text = printed(shown)
    assert "% interval" not in text
    assert text.index("0.25") < text.index("not an image")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_from_before_there_were_intervals_is_continued(
    client: ScorerClient, photos: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"scores{suffix}"
    old = [name for name in COLUMNS if not name.startswith("interval_")]
    with ScoreTable(output, old) as table:
        table.append(
            ScoreRow(str(photos / "b.jpg"), 0.25, aesthetic_score_std=0.1, model_version="v7", readout="expected")
        )
        table.finish([str(photos / "b.jpg")])
    assert score_paths([str(photos / name) for name in ("b.jpg", "a.PNG")], client, output, progress=console()) == 0
    assert numbers(read(output), "aesthetic_score") == [0.25, 0.75]
    assert numbers(read(output), "interval_high") == pytest.approx([None, 0.85])


@pytest.mark.parametrize("name", ["scores.xlsx", "no/such/folder/scores.csv"])
def test_a_bad_output_is_told_before_anything_is_scored(photos: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot write"):
        score_paths([str(photos)], ScorerClient("127.0.0.1:1"), tmp_path / name)


def test_a_stopped_fresh_call_says_how_to_go_on(
    client: ScorerClient, scorer: FakeScorer, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    assert score_paths([str(photos / "b.jpg")], client, output, progress=console()) == 0
    scorer.default = "v6"
    scorer.breaks = [2]
    with (
        ScorerClient(client.target, timeout=10, attempts=1) as hasty,
        pytest.raises(ServiceError, match="the same command without --fresh scores the rest"),
    ):
        score_paths([str(photos)], hasty, output, fresh=True, in_flight=1, progress=console())
    assert score_paths([str(photos)], client, output, progress=console()) == 1
    assert [row["model_version"] for row in read(output)] == ["v6", "v6", None, "v6"]


def test_no_service_is_one_error(photos: Path) -> None:
    client = ScorerClient("127.0.0.1:1", attempts=1)
    with pytest.raises(ServiceError, match="rapo serve"):
        score_paths([str(photos)], client, progress=console())


def test_the_command_needs_only_the_light_installation() -> None:
    heavy = ("ray", "torch", "vllm", "transformers", "pyarrow", "numpy", "PIL", "pydantic", "tomli_w")
    code = (
        "import sys, cluster.cli.main, cluster.cli.score, cluster.cli.score.local; "
        f"sys.exit(','.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
