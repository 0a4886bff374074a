"""Given critiques: read from conversations, held against the run's test images, and written for
others."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cluster.cli.check import describe, problems
from cluster.cli.main import app
from rapo.aescot.critique_judge import CritiqueJudge
from rapo.aescot.exchange.conversation import exchange_row
from rapo.aescot.exchange.given import given_records, read_given
from rapo.aescot.model_judge import WrittenImage
from rapo.aescot.teacher import RatedImage, open_teacher
from rapo.config import Config, TeacherConfig, load_config
from rapo.datasets.check import DataCheck
from rapo.datasets.record_table import RecordTable
from rapo.datasets.sources import read_parts
from rapo.errors import ConfigError, DataError


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path, "PNG")
    return path


def answer(critique: str, score: str) -> str:
    return f"<think>\n{critique}\n</think>\n<answer>{score}</answer>"


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def messages(image: object, text: str) -> dict[str, object]:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "<image>How beautiful?"}]
    return {"messages": [*turns, {"role": "assistant", "content": text}], "images": image}


def sharegpt(image: str, text: str) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": text}], "image": image}


def settings(file: Path, **more: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"kind": "given", "critiques": file, **more})


@pytest.mark.parametrize("form", ["LLaMA-Factory", "ShareGPT"])
def test_critiques_are_read_with_their_images_and_scores(form: str, tmp_path: Path) -> None:
    row = sharegpt if form == "ShareGPT" else lambda image, text: messages([image], text)
    texts = [answer("Soft light,\n calm.", "0.25"), "0.8", answer("Harsh.", "1.00")]
    file = write_rows(tmp_path / "AesCoT-3K.jsonl", *(row(f"AVA/{n}.jpg", text) for n, text in enumerate(texts)))
    (tmp_path / "images").mkdir()
    given = read_given(settings(file, images=tmp_path / "images"))
    assert given.texts == ["Soft light, calm.", None, "Harsh."]
    assert given.records.scores.tolist() == [0.25, 0.8, 1.0]
    assert given.records.path(2) == tmp_path / "images" / "AVA" / "2.jpg"
    assert {record.split for record in given.records} == {"train"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([messages("a.jpg", answer("x", "7.5"))], "score 7.5"),
        ([messages("a.jpg", answer("x", "good"))], "not a number"),
        ([messages("a.jpg", "0.5")], "no row of"),
        ([{"image": "a.jpg", "gt_score": 0.5}], "no rows of messages"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_name(rows: list[object], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_given(settings(write_rows(tmp_path / "c.jsonl", *rows)))
    assert "aescot.teacher.critiques" in str(caught.value)
    assert "c.jsonl" in str(caught.value)


def test_a_kind_and_its_file_belong_together(tmp_path: Path) -> None:
    for wrong in (["kind=given"], [f"critiques={tmp_path / 'c.jsonl'}"]):
        with pytest.raises(ConfigError, match="needs critiques"):
            load_config(None, [f"aescot.teacher.{setting}" for setting in wrong])


def test_the_teacher_gives_what_the_file_has_and_the_judge_may_be_left_out(tmp_path: Path) -> None:
    rows = [messages("a.jpg", answer("A plain score of 5.", "0.25")), messages("b.jpg", "0.8")]
    file = write_rows(tmp_path / "c.jsonl", *rows)
    config = load_config(None, ["aescot.teacher.kind=given", f"aescot.teacher.critiques={file}"])
    images = [RatedImage(uid, b"", 0.5) for uid in ("c/a.jpg", "c/b.jpg", "c/z.jpg")]
    first, *others = open_teacher(config).write(images)
    assert (first.text, first.problem) == ("A plain score of 5.", None)
    assert all(one.fault == "unusable" and "c/" in (one.problem or "") for one in others)
    written = [WrittenImage("c/a.jpg", b"no image", 0.25, "A plain score of 5.")]
    assert CritiqueJudge(load_config(None, ["aescot.judge.kind=none"])).judge(written)[0].keep


def test_images_that_the_run_holds_for_later_are_left_out(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "run" / f"{number}.png", number)
        picture(tmp_path / "given" / f"copy{number}.png", number)
    splits = ("train", "validation", "test", "train")
    labels = "".join(f"{n}.png,0.5,{split}\n" for n, split in enumerate(splits))
    (tmp_path / "run" / "t.csv").write_text(f"image,score,split\n{labels}", encoding="utf-8")
    data = load_config(None, [f"data.path={tmp_path / 'run' / 't.csv'}", "data.score_range=[0, 1]"]).data
    held = RecordTable.of([part.records for part in read_parts(data, 0, None)])
    rows = [messages(f"copy{n}.png", answer("x", "0.5")) for n in range(4)]
    records, left_out = given_records(settings(write_rows(tmp_path / "given" / "c.jsonl", *rows)), held)
    assert left_out == 2
    assert [record.uid for record in records] == ["c/copy0.png", "c/copy3.png"]


def test_check_finds_a_folder_without_the_images(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "c.jsonl", *(messages(f"{n}.png", answer("x", "0.5")) for n in range(3)))

    def config(*more: str) -> Config:
        return load_config(None, ["aescot.teacher.kind=given", f"aescot.teacher.critiques={file}", *more])

    (line,) = (line for line in problems(config(), ["aescot"], DataCheck()))
    assert "aescot.teacher.images" in line
    assert "0.png" in line
    there = f"aescot.teacher.images={tmp_path / 'there'}"
    for number in range(2):
        picture(tmp_path / "there" / f"{number}.png", number)
    (line,) = problems(config(there), ["aescot"], DataCheck())
    assert "1 of 3 images that were looked at cannot be used, more than the share data.max_unusable = 0.2" in line
    assert problems(config(there, "data.max_unusable=0.4"), ["aescot"], DataCheck()) == []
    assert f"by the file {file}" in "\n".join(describe(config(), DataCheck()))


def run_folder(folder: Path) -> Path:
    image = picture(folder / "images" / "ä b.png", 1)
    rows = [
        {"path": str(image), "score": 0.256, "critique": "Soft „light“.", "keep": True},
        {"path": str(image), "score": 0.5, "critique": None, "keep": False},
    ]
    (folder / "run" / "aescot").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "run" / "aescot" / "critiques.parquet")
    return folder / "run"


@pytest.mark.parametrize("relative", [False, True])
def test_what_is_written_is_read_back_as_given_critiques(relative: bool, tmp_path: Path) -> None:
    run, file = run_folder(tmp_path), tmp_path / "out.jsonl"
    options = ["--relative-to", str(tmp_path / "images")] if relative else []
    done = CliRunner().invoke(app, ["data", "critiques", str(run), str(file), *options])
    assert (done.exit_code, done.output) == (0, f"{file}: 1 critiques\n")
    (row,) = map(json.loads, io.StringIO(file.read_text(encoding="utf-8")))
    assert row["images"] == ["ä b.png" if relative else str(tmp_path / "images" / "ä b.png")]
    assert row == exchange_row(row["images"][0], "Soft „light“.", 0.256)
    given = read_given(settings(file, images=tmp_path / "images"))
    assert given.texts == ["Soft „light“."]
    assert given.records.scores.tolist() == [0.26]
    assert given.records.path(0).is_file()


def test_a_run_without_critiques_and_an_image_elsewhere_are_named(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["data", "critiques", str(tmp_path), str(tmp_path / "o.jsonl")])
    assert "is not finished" in str(missing.exception)
    outside = [
        "data",
        "critiques",
        str(run_folder(tmp_path)),
        str(tmp_path / "o.jsonl"),
        "--relative-to",
        str(tmp_path / "x"),
    ]
    assert "does not lie in" in str(CliRunner().invoke(app, outside).exception)
    assert not (tmp_path / "o.jsonl").exists()
