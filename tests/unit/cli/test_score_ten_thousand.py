"""`rapo score` on a large tree of files of all sorts, killed and continued, with a spreadsheet in
between: one row per image, and nothing passed over without a count."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import openpyxl
import pytest
from fake_scorer import FakeScorer, serving

from cluster.cli.score.names import path_of
from rapo.images.suffixes import IMAGE_SUFFIXES, RAW_SUFFIXES

#: The whole of it by hand: RAPO_TREE=10000 (a minute).
FILES = int(os.environ.get("RAPO_TREE", "600"))
ODD = [b"caf\xe9", "cafe\u0301".encode(), b"two\nlines", b"cr\rx", "\u2028x\x85".encode(), b"=1+1", b"-x", b" space ",
       "海边".encode(), "🏖️".encode(), b"a,b;c", b'quo"te', b"back\\slash", b"tab\there", b"[bracket]", b"#hash"]  # fmt: skip


def make_tree(top: Path, rng: random.Random) -> tuple[set[bytes], Counter[str]]:
    """Files of all sorts below `top`; the images among them, and how many there are of others."""
    images: set[bytes] = set()
    others: Counter[str] = Counter()
    good, raw = sorted(IMAGE_SUFFIXES - {".jpx"}), sorted(RAW_SUFFIXES)
    folders = [top / f"trip {number}" / ("[deep]" if number % 3 else "deep") for number in range(20)]
    for folder in folders:
        folder.mkdir(parents=True)
    for hidden in (top / ".git", top / "@eaDir", folders[0] / ".thumbnails"):
        hidden.mkdir()
        (hidden / "x.jpg").write_bytes(b"1")
    for number in range(FILES):
        stem = rng.choice(ODD) + str(number).encode()
        kind = rng.choices(["image", "text", "raw", "jxl", "hidden", "none", "broken"], [70, 8, 5, 2, 5, 5, 5])[0]
        suffix = {"text": ".txt", "raw": rng.choice(raw), "jxl": ".jxl", "none": ""}.get(kind, rng.choice(good))
        if rng.random() < 0.3:
            suffix = suffix.upper()
        name = (b"." if kind == "hidden" else b"") + stem + suffix.encode()
        path = os.fsencode(rng.choice(folders)) + b"/" + name
        with open(path, "wb") as file:
            file.write(b"no image" if kind == "broken" else str(number % 100).encode())
        if kind in ("image", "broken"):
            images.add(path)
        else:
            others[kind] += 1
    (top / "round").symlink_to(top)
    return images, others


def run_until(command: list[str], partial: Path, rows: int) -> None:
    """Run the command, and kill it once so many more rows are written."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if partial.exists() and partial.read_bytes().count(b"\n") >= rows:
                process.kill()
            time.sleep(0.005)


def through_spreadsheet(output: Path) -> None:
    """Open the table in openpyxl, add a column, sort it, and save it as Excel does in Germany."""
    book = openpyxl.Workbook()
    sheet = book.active
    with output.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            sheet.append(row)
    sheet.cell(1, sheet.max_column + 1, "my note")
    for number in range(2, sheet.max_row + 1):
        sheet.cell(number, sheet.max_column, f"note {sheet.cell(number, 1).value}")
    book.save(output.with_suffix(".xlsx"))
    rows = list(openpyxl.load_workbook(output.with_suffix(".xlsx")).active.iter_rows(values_only=True))
    header, body = rows[0], sorted(rows[1:], key=lambda row: str(row[2]))
    numbers = [place for place, name in enumerate(header) if "score" in name or "interval" in name]
    with output.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
        writer.writerow(header)
        for row in body:
            cells = ["" if cell is None else str(cell) for cell in row]
            for place in numbers:
                cells[place] = cells[place].replace(".", ",")
            writer.writerow(["WAHR" if c == "True" else "FALSCH" if c == "False" else c for c in cells])
    output.with_suffix(".xlsx").unlink()


@pytest.mark.timeout(600)
def test_a_tree_of_all_sorts_has_one_row_per_image(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "scores.csv"
    photos.mkdir()
    images, others = make_tree(photos, random.Random(5))
    scorer = FakeScorer()
    scorer.limits.max_stream_in_flight = 32
    scorer.delay_s = 0.002
    partial = tmp_path / "scores.csv.partial.jsonl"
    with serving(scorer) as target:
        command = [sys.executable, "-m", "rapo", "score", str(photos), "-o", str(output), "--server", target]
        for part in (1, 2, 3):
            run_until(command, partial, part * len(images) // 5)
            assert partial.exists()
        first = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert first.returncode == 1, first.stderr
        through_spreadsheet(output)
        again = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert again.returncode == 1, again.stderr
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(images)
    assert {os.fsencode(path_of(row["image"])) for row in rows} == images
    assert len(output.read_text(encoding="utf-8").splitlines()) == len(images) + 1
    assert all(row["my note"] == f"note {row['image']}" for row in rows)
    broken = sum(1 for row in rows if not row["aesthetic_score"])
    assert broken == sum(1 for path in images if b"no image" in Path(os.fsdecode(path)).read_bytes())
    for words in (first.stderr, again.stderr):
        assert f"hidden files: {others['hidden']:,}" in words
        assert "hidden folders: 2" in words
        assert "folders that a system made for itself: 1" in words
        assert "linked folders that were searched already: 1" in words
        assert f"to be developed into TIFF or JPEG first: {others['raw']:,}" in words
        assert f"to be converted first: {others['jxl']:,}" in words
        assert f"without an image's suffix: {others['text'] + others['none']:,}" in words
        assert f"{len(images) - broken:,} of {len(images):,} images have a score" in words
    scored = Counter(bytes(request.image) for request in scorer.requests)
    assert sum(scored.values()) < 1.4 * len(images) + 200, "what was scored before a kill is not scored again"
