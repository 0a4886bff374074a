"""Collections: small files in the layouts of published data sets, with invented numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from label_files import ava, make_image
from scipy.io import savemat

#: Images of each split of the collections that say it themselves.
TRAIN, TEST = 12, 6


def write(path: Path, text: str, *, end: str = "\n", start: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((start + text.replace("\n", end)).encode())
    return path


def scores(count: int, low: float, high: float, seed: int = 0) -> list[float]:
    return [round(float(value), 4) for value in np.random.default_rng(seed).uniform(low, high, count)]


def tad66k(folder: Path, forms: tuple[str, ...] = ("merge",)) -> Path:
    for split, count, first in (("train", TRAIN, 0), ("test", TEST, 100)):
        names = [f"someone{1234500 + first + index}.jpg" for index in range(count)]
        rows = [f"{name},{score}" for name, score in zip(names, scores(count, 1.2, 9.4), strict=True)]
        if "merge" in forms:
            write(folder / "merge" / f"{split}.csv", "\n".join(["image,score", *rows, ""]), end="\r\n")
        if "unmerge" in forms:
            half = count // 2
            for theme, part in (("cat", rows[:half]), ("moon", rows[half:])):
                write(folder / "unmerge" / split / f"{theme}.csv", "\n".join(["image,score", *part, ""]), end="\r\n")
        for name in names:
            make_image(folder / "TAD66K" / name)
    return folder


def flickr_aes(folder: Path, *, workers: bool = True) -> Path:
    names = [f"farm1_27_{96361200 + index}_c2005950{index:02d}.jpg" for index in range(20)]
    lines = [f"{' ' if index % 3 == 0 else ''}{name} {0.2 + 0.04 * index:.3f}" for index, name in enumerate(names)]
    write(folder / "FLICKR-AES_image_score.txt", "\n".join([*lines, ""]))
    if workers:
        rows = [f" w{w} , {name} , {1 + (index + w) % 5} " for index, name in enumerate(names) for w in range(3)]
        write(
            folder / "FLICKR-AES_image_labeled_by_each_worker.csv", "\n".join([" worker, imagePair, score ", *rows, ""])
        )
    for name in names:
        make_image(folder / "40K" / name)
    return folder


def para(folder: Path) -> Path:
    levels = [f"aestheticScore_{1 + half / 2:.1f}" for half in range(9)]
    head = [
        "imageName",
        "sessionId",
        "semantic",
        *levels,
        "aestheticScore_mean",
        "aestheticScore_std",
        "qualityScore_mean",
    ]
    for split, count, session in (("Train", TRAIN, 1), ("Test", TEST, 2)):
        rows = []
        for index in range(count):
            counts = np.random.default_rng(index).integers(0, 4, 9) + (np.arange(9) == index % 9)
            values = np.repeat(np.linspace(1, 5, 9), counts)
            cells = [f"iaa_pub{index}_.jpg", f"session{session}", "scene", *map(str, counts)]
            rows.append(",".join([*cells, f"{values.mean():.6f}", f"{values.std():.6f}", "3.1"]))
            make_image(folder / "imgs" / f"session{session}" / f"iaa_pub{index}_.jpg", 100 * session + index)
        write(folder / "annotation" / f"PARA-Giaa{split}.csv", "\n".join([",".join(head), *rows, ""]))
    return folder


def aadb(folder: Path) -> Path:
    where = folder / "imgListFiles_label" / "imgListFiles_label"
    for split, count in (("Train", TRAIN), ("Validation", 3), ("Test", 4), ("TestNew", TEST)):
        first = {"Train": 0, "Validation": 100, "Test": 200, "TestNew": 300}[split]
        names = [f"farm1_333_{194380 + first + index}_087c8abc60_b.jpg" for index in range(count)]
        for kind, low in (("score", 0.0), ("BalacingElements", -1.0)):
            lines = [f"{name} {value}" for name, value in zip(names, scores(count, low, 1.0), strict=True)]
            write(where / f"imgList{split}Regression_{kind}.txt", "\n".join([*lines, ""]))
        for name in names:
            make_image(folder / "datasetImages_originalSize" / name)
    return folder


def aadb_info(path: Path) -> Path:
    content: dict[str, np.ndarray] = {}
    for split, count, first in (("train", TRAIN, 0), ("test", TEST, 500)):
        names = [f"farm1_333_{194380 + first + index}_087c8abc60_b.jpg" for index in range(count)]
        content[f"{split}NameList"] = np.array([np.array([name]) for name in names], object).reshape(1, -1)
        content[f"{split}Score"] = np.linspace(0, 1, count).reshape(1, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)
    return path


def eva(folder: Path) -> Path:
    head = "image_id=user_id=score=difficulty=visual=composition=quality=semantic=vote_time=1=2=3=4"
    rows = []
    for index in range(18):
        number = f"{1000 + index}" + (".0" if index % 2 else "")
        rows += [f"{number}=E{user}={(index + user) % 11}=2=3=3=3=2=8000=0=0=1=0" for user in range(5)]
        make_image(folder / "images" / "EVA_together" / f"{1000 + index}.jpg")
    write(folder / "data" / "votes_filtered.csv", "\n".join([head, *rows, ""]))
    write(folder / "data" / "users.csv", "id=age=region=gender_id\nE1=1992.0=156.0=2.0\n")
    write(folder / "data" / "image_content_category.csv", '"image_id","sort"\n"1000","5"\n', start="\ufeff")
    return folder


def spaq(folder: Path) -> Path:
    rows: list[list[object]] = [[f"{index + 1:05d}.jpg", *scores(6, 5.0, 95.0, seed=index)] for index in range(20)]
    head: list[object] = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    xlsx(folder / "Annotations" / "MOS and Image attribute scores.xlsx", [head, *rows])
    for row in rows:
        make_image(folder / "TestImage" / str(row[0]))
    return folder


def koniq(folder: Path, *, zscore: bool = False) -> Path:
    head = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD," + ("MOS_zscore" if zscore else "set")
    rows = []
    for index in range(20):
        counts = np.random.default_rng(index).integers(1, 30, 5)
        values = np.repeat(np.arange(1, 6), counts)
        share = counts if zscore else counts / counts.sum()
        mos = values.mean() if zscore else (values.mean() - 1) * 25
        last = f"{(values.mean() - 1) * 25}" if zscore else ("training", "training", "validation", "test")[index % 4]
        cells = [f"{10004473 + index}.jpg", *map(str, share), str(counts.sum()), str(mos), str(values.std()), last]
        rows.append(",".join(cells))
        make_image(folder / "1024x768" / f"{10004473 + index}.jpg")
    name = "koniq10k_scores_and_distributions.csv" if zscore else "koniq10k_distributions_sets.csv"
    write(folder / name, "\n".join([head, *rows, ""]))
    return folder


def xlsx(path: Path, rows: list[list[object]]) -> Path:
    """A sheet as Excel writes it: shared strings, and numbers as they are."""
    words = list(dict.fromkeys(cell for row in rows for cell in row if isinstance(cell, str)))
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = "".join(
            f'<c r="{chr(65 + at)}{number}" t="s"><v>{words.index(cell)}</v></c>'
            if isinstance(cell, str)
            else f'<c r="{chr(65 + at)}{number}"><v>{cell}</v></c>'
            for at, cell in enumerate(row)
            if cell is not None
        )
        lines.append(f'<row r="{number}">{cells}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        strings = "".join(f"<si><t>{escape(word)}</t></si>" for word in words)
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{strings}</sst>")
        archive.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
    return path


#: Each collection: how it is written, its scale, its spreads' scale, its splits, and the images.
COLLECTIONS = {
    "ava": (ava, (1, 10), (1, 10), True, 30),
    "tad66k": (tad66k, (1, 10), None, True, TRAIN + TEST),
    "flickr-aes": (flickr_aes, (0.2, 1), (0.2, 1), False, 20),
    "para": (para, (1, 5), (1, 5), True, TRAIN + TEST),
    "aadb": (aadb, (0, 1), None, True, TRAIN + 3 + TEST),
    "eva": (eva, (0, 10), (0, 10), False, 18),
    "spaq": (spaq, (0, 100), None, False, 20),
    "koniq": (koniq, (0, 100), (1, 5), True, 20),
}
