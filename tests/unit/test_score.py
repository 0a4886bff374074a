"""`rapo score` behind its command line: what is found, what is written, what is shown."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from io import StringIO
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from cluster.score import COLUMNS, find_images, score_paths
from rapo.errors import DataError, ServiceError
from rapo.v1 import scorer_pb2, scorer_pb2_grpc


class Servicer(scorer_pb2_grpc.AestheticScorerServicer):
    """Scores an image that holds a number as that number; refuses any other."""

    def Score(self, request, context):
        try:
            score = float(request.image)
        except ValueError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, 'not an image, "really"')
        return scorer_pb2.ScoreResponse(score=score, rationale="soft, [bold]warm[/bold]\nlight", model_version="v7")

    def GetModel(self, request, context):
        return scorer_pb2.GetModelResponse(model_version="v7")


@pytest.fixture
def server() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    scorer_pb2_grpc.add_AestheticScorerServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait(5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    for name, content in {
        "b.jpg": "0.25",
        "a.PNG": "0.75",
        "deep/er/c.webp": "0.5",
        "broken.jpg": "x",
        "notes.txt": "0.1",
        ".hidden.jpg": "0.1",
    }.items():
        (folder / name).write_text(content)
    return folder


def console() -> Console:
    return Console(file=StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_folders_files_and_patterns_are_found_once_and_in_order(photos: Path) -> None:
    inside = [photos / name for name in ("a.PNG", "b.jpg", "broken.jpg", "deep/er/c.webp")]
    assert find_images([str(photos)]) == inside
    assert find_images([str(photos / "*.jpg")]) == [photos / "b.jpg", photos / "broken.jpg"]
    assert find_images([str(photos / "**" / "*.webp")]) == inside[3:]
    assert find_images([str(photos / "notes.txt"), str(photos / "b.jpg"), str(photos)]) == [
        photos / "notes.txt",
        photos / "b.jpg",
        *(path for path in inside if path.name != "b.jpg"),
    ]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "shot[1].jpg"
    path.touch()
    assert find_images([str(path)]) == [path]


@pytest.mark.parametrize("names", [["missing.jpg"], ["*.nothing"], []])
def test_nothing_found_is_a_data_error(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        find_images(names)


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_image_has_a_row_and_failures_a_null_score(
    server: str, photos: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"scores{suffix}"
    assert score_paths([str(photos)], server, output, 2, console()) == 1
    rows = read(output)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [Path(str(row["image"])).name for row in rows] == ["a.PNG", "b.jpg", "broken.jpg", "c.webp"]
    scores = [row["aesthetic_score"] for row in rows]
    assert [None if score is None else float(str(score)) for score in scores] == [0.75, 0.25, None, 0.5]
    assert [row["model_version"] for row in rows] == ["v7", "v7", None, "v7"]
    assert rows[0]["rationale"] == "soft, [bold]warm[/bold]\nlight"
    assert "not an image" in str(rows[2]["error"])
    assert rows[0]["error"] is None
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [output.name]


def test_a_parquet_file_of_failures_alone_keeps_its_types(server: str, photos: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    output = tmp_path / "scores.parquet"
    assert score_paths([str(photos / "broken.jpg")], server, output, 2, console()) == 1
    assert str(pq.read_schema(output).field("aesthetic_score").type) == "double"


def test_without_an_output_the_table_is_sorted_and_literal(server: str, photos: Path) -> None:
    shown = console()
    assert score_paths([str(photos / "b.jpg"), str(photos / "a.PNG")], server, None, 2, shown) == 0
    text = printed(shown)
    assert text.index("0.75") < text.index("0.25")
    assert "[bold]warm[/bold]" in text


@pytest.mark.parametrize("name", ["scores.xlsx", "no/such/folder/scores.csv"])
def test_a_bad_output_is_told_before_anything_is_scored(photos: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot write"):
        score_paths([str(photos)], "127.0.0.1:1", tmp_path / name, 2, console())


def test_no_service_is_one_error(photos: Path) -> None:
    with pytest.raises(ServiceError, match="rapo serve"):
        score_paths([str(photos)], "127.0.0.1:1", None, 2, console())


def test_neither_ray_nor_torch_is_imported() -> None:
    heavy = ("ray", "torch", "vllm", "transformers", "pyarrow", "numpy")
    code = f"import sys, cluster.score; sys.exit(','.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
