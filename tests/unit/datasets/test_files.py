"""Label files: kinds told by content, delimiters, headers, quotation marks, strict numbers."""

from __future__ import annotations

import gzip
import json

import pytest
from collection_files import write, xlsx

from rapo.config import ColumnsConfig, SourceConfig
from rapo.datasets.labels import strings
from rapo.datasets.registry import read_source
from rapo.datasets.scales import scale_of
from rapo.errors import DataError

GOOD = "image,score\n" + "".join(f"img/{i}.jpg,{1 + i / 10}\n" for i in range(30))


def read(path, **config):
    return read_source(SourceConfig(path=path, **config))


def scores(path, **config):
    return read(path, **config).labels.scores.tolist()


def rows(path, **config):
    labels = read(path, **config).labels
    return dict(zip(strings(labels.names), labels.scores.tolist(), strict=True))


# Kinds


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.tsv", "t.txt", "t.xlsx", "t.pkl", "t.json", "t.parquet", "t"])
def test_a_name_does_not_matter(tmp_path, name):
    assert len(read(write(tmp_path / name, GOOD)).labels) == 30


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "=", " "])
def test_delimiters_and_line_ends(tmp_path, delimiter, end):
    path = write(tmp_path / "t", GOOD.replace(",", delimiter), end=end)
    assert rows(path)["img/3.jpg"] == 1.3


@pytest.mark.parametrize("start", ["\ufeff", "sep=,\n", "\n\n"])
def test_what_excel_writes_first(tmp_path, start):
    assert len(read(write(tmp_path / "t", GOOD, start=start)).labels) == 30


def test_utf_16_and_gzip(tmp_path):
    (tmp_path / "a").write_bytes(GOOD.replace(",", "\t").encode("utf-16"))
    (tmp_path / "b").write_bytes(gzip.compress(GOOD.encode()))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") == rows(write(tmp_path / "c", GOOD))


def test_a_decimal_comma_in_a_sheet_of_excel(tmp_path):
    assert rows(xlsx(tmp_path / "t.xlsx", [["image", "score"], ["a.jpg", "1,5"]])) == {"a.jpg": 1.5}


def test_a_sheet_of_excel(tmp_path):
    path = xlsx(tmp_path / "t.csv", [["image", None, "score"], ["b.jpg", "x", 4.5], ["a.jpg", None, 2]])
    assert rows(path) == {"b.jpg": 4.5, "a.jpg": 2.0}
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a readable Excel file"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x04\x95\0\0", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n", "an image"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"PK\x03\x04 photos.jpg", "ZIP archive"),
        (b"abc\0def", "binary file"),
        (b"image;score\n\xd5\xd5\xc6\xac1.jpg;2\n", "line 2 is not UTF-8.*iconv"),
    ],
)
def test_files_that_are_no_labels_are_named(tmp_path, content, words):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "labels.csv")


# Headers and columns


def test_a_table_without_a_header(tmp_path):
    source = read(write(tmp_path / "t.txt", " a photo.jpg 4.5 0.3\nb.jpg 2 0.25\n"))
    assert dict(zip(strings(source.labels.names), source.labels.scores, strict=True)) == {
        "a photo.jpg": 4.5,
        "b.jpg": 2,
    }
    assert source.labels.stds is not None
    assert source.labels.stds.tolist() == [0.3, 0.25]
    assert "no header" in source.notes[0]
    with pytest.raises(DataError, match="4 columns and no header"):
        read(write(tmp_path / "u.txt", "a.jpg,1,2,3\nb.jpg,1,2,3\n"))
    named = ColumnsConfig(image="1", score="4")
    assert scores(tmp_path / "u.txt", columns=named) == [3.0, 3.0]


@pytest.mark.parametrize("header", ["image_name,MOS", "Filename,mean_score", "imageName,rating", "img,aesthetic_score"])
def test_usual_names_of_columns(tmp_path, header):
    assert scores(write(tmp_path / "t", f"{header}\na.jpg,1\nb.jpg,2\n")) == [1, 2]


def test_a_plain_name_goes_before_others(tmp_path):
    path = write(tmp_path / "t", "image_id,image,score,std,sd\n7,a.jpg,1,0.5,9\n")
    assert rows(path) == {"a.jpg": 1}
    assert read(path).labels.stds.tolist() == [0.5]


def test_columns_by_a_map(tmp_path):
    path = write(tmp_path / "t", "photo,stars,spread,part\na.jpg,1,0.2,test\nb.jpg,2,0.3,train\n")
    columns = ColumnsConfig(image="photo", score="stars", std="spread", split="part")
    labels = read(path, columns=columns).labels
    assert [labels.split_at(0), labels.split_at(1)] == ["test", "train"]
    with pytest.raises(DataError, match=r"no column 'picture', which data\.columns\.image names"):
        read(path, columns=ColumnsConfig(image="picture"))


def test_a_column_that_is_not_to_be_used(tmp_path):
    path = write(tmp_path / "t", "image,score,std,split\na.jpg,1,90,first\nb.jpg,2,80,second\n")
    labels = read(path, columns=ColumnsConfig(std="", split="")).labels
    assert (labels.stds, labels.splits) == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,score,score\na.jpg,1,9\n", "'score' twice"),
        ("image,score,Score\na.jpg,1,9\n", "'score' and 'Score' may each be"),
        ("image,score,split,split\na.jpg,1,test,train\n", "'split' twice"),
        ("image,score,gt_score\na.jpg,1,9\n", "'score' and 'gt_score' may each be"),
        ("1 Abstract\n24 Action\n", "list of names without scores"),
        ("4=Afghanistan\n248=Albania\n", "holds no scores"),
        ("629797\n902498\n", "list of names without scores"),
        ("image,score\nhttp://x/a.jpg,1\n", "download"),
        ("image,score,dataset\na.jpg,1,\n", "line 2: dataset is empty"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "t", text))


def test_a_key_of_json_that_is_there_twice(tmp_path):
    with pytest.raises(DataError, match="'score' is there twice"):
        read(write(tmp_path / "t", '{"image": "a.jpg", "score": 1, "score": 2}\n'))


# Quotation marks


def test_a_quotation_mark_that_is_left_open(tmp_path):
    lines = GOOD.splitlines()
    lines[5] = '"' + lines[5]
    with pytest.raises(DataError, match="line 6 opens a quotation mark"):
        read(write(tmp_path / "a", "\n".join(lines)))
    lines[20] = '"' + lines[20]
    with pytest.raises(DataError, match="line 6 opens a quotation mark"):
        read(write(tmp_path / "b", "\n".join(lines)))
    lines[20] = lines[20].removeprefix('"').replace(",", '",')
    with pytest.raises(DataError, match=r"from line 6 to line 21.*whole rows"):
        read(write(tmp_path / "c", "\n".join(lines)))


def test_a_caption_may_span_lines(tmp_path):
    text = 'image,score,caption\na.jpg,1,"one\ntwo"\n\nb.jpg,x,"three, four"\n'
    with pytest.raises(DataError, match="line 5: score 'x'"):
        read(write(tmp_path / "t", text))
    assert rows(write(tmp_path / "t", text.replace(",x,", ",2,"))) == {"a.jpg": 1, "b.jpg": 2}


# Numbers


def test_a_decimal_comma(tmp_path):
    assert scores(write(tmp_path / "t", "image;score\na.jpg;4,5\nb.jpg;3\nc.jpg;-,5\n")) == [4.5, 3.0, -0.5]
    with pytest.raises(DataError, match=r"line 2: score '4,5' is not a number.*point"):
        read(write(tmp_path / "u", 'image,score\na.jpg,"4,5"\n'))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("1_537", "underscore"),
        ("nan", "finite"),
        ("-Infinity", "finite"),
        ("1e999", "finite"),
        ("٣", "not a number"),
        ("0x10", "not a number"),
        ("1.5.", "not a number"),
        ("", "not a number"),
        ("true", "not a number"),
    ],
)
def test_what_is_no_number(tmp_path, cell, words):
    with pytest.raises(DataError, match=f"line 2: score '{cell}'.*{words}"):
        read(write(tmp_path / "t", f"image,score\na.jpg,{cell}\nb.jpg,1\n"))


def test_numbers_of_json_and_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = write(tmp_path / "a", json.dumps([{"image": "a.jpg", "score": "0.25"}, {"image": ["b.jpg"], "score": 1}]))
    assert rows(path) == {"a.jpg": 0.25, "b.jpg": 1.0}
    with pytest.raises(DataError, match=r"item 1: score 1000.* is not a finite number"):
        read(write(tmp_path / "c", json.dumps([{"image": "a.jpg", "score": 10**400}])))
    for values, words in (([1.0, None], "row 2: score is empty"), ([1.0, float("nan")], "row 2: score nan"),
                          ([True, False], "row 1: score True"), (["1", "1_0"], "row 2.*underscore")):  # fmt: skip
        table = pyarrow.table({"image": ["a.jpg", "b.jpg"], "score": values})
        pyarrow.parquet.write_table(table, tmp_path / "b")
        with pytest.raises(DataError, match=words):
            read(tmp_path / "b")


def test_names_from_other_systems(tmp_path):
    path = write(tmp_path / "t", "image,score\n sub\\a.jpg ,1\n./x//b.jpg,2\n/abs/c.jpg,3\n")
    assert list(rows(path)) == ["sub/a.jpg", "x/b.jpg", "abs/c.jpg"]
    assert str(read(path).labels.path(2)) == "/abs/c.jpg"


# Spreads


def scaled(path, **config):
    source = SourceConfig(path=path, **config)
    return scale_of(source, read_source(source))


def test_spreads_that_cannot_be(tmp_path):
    path = write(tmp_path / "t", "image,score,std\na.jpg,1.5,12.5\nb.jpg,4,2.0\nc.jpg,3,\n")
    with pytest.raises(
        DataError, match=r"line 2: std 12\.5 of 'a\.jpg'\. No spread on \[1, 5\] exceeds 2: .*std_range"
    ):
        scaled(path, score_range=(1, 5))
    scale, notes = scaled(path, score_range=(1, 5), std_range=(0, 100))
    assert (scale.width, scale.std_width, notes) == (4, 100, [])


def test_spreads_that_are_all_small_are_said_to_be(tmp_path):
    path = write(tmp_path / "t", "image,score,std\na.jpg,13,0.9\nb.jpg,84,0.8\n")
    _, (note,) = scaled(path, score_range=(0, 100))
    assert "no spread on [0, 100] exceeds 0.9" in note


# Conversation rows


def conversation(answer, image="a.jpg"):
    return {
        "messages": [{"role": "user", "content": "1 to 5? <image>"}, {"role": "assistant", "content": answer}],
        "images": image,
    }


def test_rows_of_aes_r1(tmp_path):
    answers = ["0.25", "<think>3 of 5</think><answer> 0.80 </answer>"]
    rows_ = [conversation(answers[0], "a.jpg"), conversation(answers[1], ["b.jpg"])]
    path = write(tmp_path / "t", json.dumps(rows_))
    assert rows(path) == {"a.jpg": 0.25, "b.jpg": 0.8}
    assert read(path).format == "conversations"


def test_rows_of_visualquality_r1(tmp_path):
    lines = [
        json.dumps(
            {"id": i, "dataset_name": name, "image": [f"{i}.jpg"], "conversations": [{"from": "gpt", "value": i / 10}]}
        )
        for i, name in enumerate(("koniq", "koniq", "spaq"))
    ]
    labels = read(write(tmp_path / "t", "\n".join(lines))).labels
    assert labels.scores.tolist() == [0.0, 0.1, 0.2]
    assert [labels.set_name(row) for row in range(3)] == ["koniq", "koniq", "spaq"]


def test_no_rows_are_an_error(tmp_path):
    for text in ("messages,images\n", "image,score\n"):
        with pytest.raises(DataError, match="holds no rows"):
            read(write(tmp_path / "t", text))


def test_level_words_are_no_scores(tmp_path):
    path = write(tmp_path / "t", json.dumps([conversation("The quality is good."), conversation("0.5", "b.jpg")]))
    with pytest.raises(DataError, match=r"item 1: the last answer 'The quality is good.' is not a number; level words"):
        read(path)
