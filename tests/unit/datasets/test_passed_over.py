"""What a reader of labels leaves out: it is said, or the source is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from collection_files import write, xlsx
from label_files import make_image

from rapo.config import SourceConfig
from rapo.datasets.files.found import MOST_FILES, lacking_shards
from rapo.datasets.labels import strings
from rapo.datasets.registry import read_source
from rapo.datasets.rows import LabelSource
from rapo.errors import DataError

GOOD = "image,score\n" + "".join(f"img/{i}.jpg,{i / 10}\n" for i in range(9))
SHEET: list[list[object]] = [["image", "score"], ["a.jpg", 0.5], ["b.jpg", 0.25]]


def read(path: Path) -> LabelSource:
    return read_source(SourceConfig(path=path))


def names(path: Path) -> list[str]:
    return list(strings(read(path).labels.names))


def parts(path: Path, changed: dict[str, str]) -> Path:
    """An archive with some of its parts changed or added."""
    with zipfile.ZipFile(path) as archive:
        every = {name: archive.read(name).decode() for name in archive.namelist()} | changed
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in every.items():
            archive.writestr(name, content)
    return path


def workbook(path: Path, second: list[list[object]], order: tuple[int, int]) -> Path:
    """A file of two sheets, the first being `SHEET`, whose tabs have this order."""
    with zipfile.ZipFile(xlsx(path.with_suffix(".second"), second)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    tabs = "".join(f'<sheet name="{one}" sheetId="{one}" r:id="rId{one}"/>' for one in order)
    targets = "".join(f'<Relationship Id="rId{i}" Target="worksheets/sheet{i}.xml"/>' for i in (1, 2))
    return parts(
        xlsx(path, SHEET),
        {
            "xl/worksheets/sheet2.xml": sheet,
            "xl/workbook.xml": f'<workbook xmlns="x" xmlns:r="y"><sheets>{tabs}</sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f"<Relationships>{targets}</Relationships>",
        },
    )


class TestExcel:
    def test_other_sheets_with_rows_are_said(self, tmp_path: Path) -> None:
        source = read(workbook(tmp_path / "t.xlsx", [[7.0]], (1, 2)))
        assert list(strings(source.labels.names)) == ["a.jpg", "b.jpg"]
        assert source.notes == ("t.xlsx: only its first sheet is read; of the others, 1 hold rows",)
        assert read(workbook(tmp_path / "u.xlsx", [], (1, 2))).notes == ()

    def test_the_first_tab_is_the_first_sheet(self, tmp_path: Path) -> None:
        assert names(workbook(tmp_path / "t.xlsx", [[1.0], [2.0]], (1, 2))) == ["a.jpg", "b.jpg"]
        with pytest.raises(DataError, match=r"no column 'image'.*only '7.0'"):
            read(workbook(tmp_path / "u.xlsx", [[7.0], [8.0]], (2, 1)))

    def test_how_a_word_is_spoken_is_no_part_of_it(self, tmp_path: Path) -> None:
        path = xlsx(tmp_path / "t.xlsx", SHEET)
        with zipfile.ZipFile(path) as archive:
            shared = archive.read("xl/sharedStrings.xml").decode()
        spoken = shared.replace("<t>a.jpg</t>", '<r><t>a</t></r><r><t>.jpg</t></r><rPh sb="0" eb="1"><t>x</t></rPh>')
        assert names(parts(path, {"xl/sharedStrings.xml": spoken})) == ["a.jpg", "b.jpg"]

    def test_rows_without_numbers_are_counted(self, tmp_path: Path) -> None:
        path = xlsx(tmp_path / "t.xlsx", [*SHEET, ["c.jpg", "x"]])
        with zipfile.ZipFile(path) as archive:
            sheet = archive.read("xl/worksheets/sheet1.xml").decode()
        for number in range(1, 5):
            sheet = sheet.replace(f'<row r="{number}">', "<row>")
        with pytest.raises(DataError, match="row 4: score 'x'"):
            read(parts(path, {"xl/worksheets/sheet1.xml": sheet}))


class TestJson:
    def late(self, path: Path, **more: object) -> Path:
        rows = [{"image": f"{i}.jpg", "score": 0.5} | (more if i > 250 else {}) for i in range(260)]
        return write(path, "".join(json.dumps(row) + "\n" for row in rows))

    def test_a_meaning_that_comes_late_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="line 252 has 'split', which none of the first 200 rows has"):
            read(self.late(tmp_path / "t.jsonl", note="x", split="test"))

    def test_other_keys_may_come_late(self, tmp_path: Path) -> None:
        """`file` is another name for what `image` means already."""
        assert len(read(self.late(tmp_path / "t.jsonl", note="x", file="y")).labels) == 260


class TestShards:
    def shards(self, folder: Path, *names: str) -> Path:
        folder.mkdir()
        for number, name in enumerate(names):
            one = {"image": [f"{number}-{i}.jpg" for i in range(3)], "score": [0.1, 0.2, 0.3]}
            pyarrow.parquet.write_table(pyarrow.table(one), folder / name)
        return folder

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        folder = self.shards(tmp_path / "set", "train-00000-of-00003.parquet", "train-00001-of-00003.parquet")
        with pytest.raises(DataError, match=r"shards are missing \(1, for example train-00002-of-00003\.parquet\)"):
            read(folder)
        assert read(folder / "train-00000-of-00003.parquet").notes == (
            "train-00000-of-00003.parquet is one of 3 shards; give its folder to read them all",
        )

    def test_all_shards_are_read(self, tmp_path: Path) -> None:
        folder = self.shards(
            tmp_path / "set", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "x.parquet"
        )
        assert (len(read(folder).labels), read(folder).notes) == (9, ())
        assert lacking_shards([Path("a-0-of-3.parquet"), Path("b.parquet")]) == []

    def test_no_number_of_shards_is_too_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rapo.datasets.files.found.MOST_FILES", 3)
        assert len(read(self.shards(tmp_path / "set", *(f"{i}.parquet" for i in range(5)))).labels) == 15


def test_a_folder_of_too_many_files_says_so(tmp_path: Path) -> None:
    for number in range(MOST_FILES):
        (tmp_path / f"{number:03}.xmp.json").write_text('{"x": 1}')
    write(tmp_path / "labels.csv", GOOD)
    with pytest.raises(DataError, match=f"only {MOST_FILES} of its files were looked into"):
        read(tmp_path)


class TestComments:
    def test_comments_before_the_header_are_said(self, tmp_path: Path) -> None:
        source = read(write(tmp_path / "t.csv", f"# rated in 2024, by us\n# the file of scores\n{GOOD}"))
        assert len(source.labels) == 9
        assert source.labels.place(0) == "line 4"
        assert source.notes == ("t.csv: the lines before its header that begin with # are passed over: 2",)

    @pytest.mark.parametrize("text", ["#1.jpg,1\n#2.jpg,0\n", "a.jpg,1\n# c,0\n"])
    def test_a_name_may_begin_so(self, tmp_path: Path, text: str) -> None:
        assert len(read(write(tmp_path / "t.csv", text)).labels) == 2

    def test_a_header_may_not(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no column 'image'.*only '#image'"):
            read(write(tmp_path / "t.csv", "#image,score\na.jpg,1\n"))


def tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        item = tarfile.TarInfo("t.csv")
        item.size = len(content)
        archive.addfile(item, io.BytesIO(content))
    return out.getvalue()


def opendocument() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar(GOOD.encode()), "a TAR archive; unpack it"),
        (gzip.compress(tar(GOOD.encode())), "a TAR archive; unpack it"),
        (gzip.compress(gzip.compress(GOOD.encode())), "compressed twice"),
        (opendocument(), "a table of LibreOffice or Numbers; save it as .xlsx or CSV"),
        (GOOD.encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (GOOD.encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (b"\xd0\xcf\x11\xe0\xa1", "or one with a password"),
        (b"<table><tr><td>image</td></tr></table>", "a web page or XML"),
    ],
    ids=["tar", "tar.gz", "gz.gz", "ods", "utf-16-le", "utf-16-be", "xls", "html"],
)
def test_what_a_file_is_instead(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "t")


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t")
    for path in (tmp_path / "t", Path("/dev/null")):
        with pytest.raises(DataError, match="is a pipe or a device"):
            read(path)


def test_a_name_of_any_length_is_a_missing_image(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cluster.cli.main import app

    for number in range(20):
        make_image(tmp_path / f"{number}.png", number)
    rows = "".join(f"{number}.png,{number / 20}\n" for number in range(20))
    path = write(tmp_path / "t.csv", f"image,score\n{rows}{'x' * 900}.png,0.5\n")
    done = CliRunner().invoke(app, ["check", "--set", f"data.path={path}", "--set", "serve.port=0"])
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("warning:"))
    assert "1 of 21 images looked at: missing" in line
    assert len(line) <= 500
    assert CliRunner().invoke(app, ["data", "inspect", str(path)]).exit_code == 0
