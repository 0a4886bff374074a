"""What `rapo check` says of images that lie inside of tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from label_files import make_image

from cluster.cli.inspect import inspect_lines
from rapo.config import ImageConfig, SourceConfig, load_config
from rapo.datasets.check import DataCheck, check_data
from rapo.datasets.inspect import inspect_source
from rapo.images.model_view import ModelView
from rapo.models.prompt_length import PromptLength

ROWS = 40


def shard(path: Path, changes: dict[int, dict[str, object] | None]) -> Path:
    """A table of images as Hugging Face writes it, some of them changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number in range(ROWS):
        make_image(path.parent / "one.png", number)
        image = {"bytes": (path.parent / "one.png").read_bytes(), "path": f"{path.stem}-{number}.png"}
        rows.append({"image": changes.get(number, image), "score": number / ROWS})
    (path.parent / "one.png").unlink()
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def check(path: Path, *overrides: str, length: PromptLength | None = None) -> DataCheck:
    return check_data(load_config(None, [f"data.path={path}", *overrides]), length)


BROKEN: dict[str, object] = {"bytes": b"no image", "path": "x.jpg"}
ABSENT: dict[str, object] = {"bytes": None, "path": "absent.jpg"}


def test_sound_images_are_nothing_to_speak_of(tmp_path):
    found = check(shard(tmp_path / "data.parquet", {}))
    assert (found.problems, found.warnings) == ([], [])


def test_a_few_that_cannot_be_used_are_a_warning_which_names_one(tmp_path):
    found = check(shard(tmp_path / "data.parquet", {5: BROKEN, 7: ABSENT, 8: None, 36: BROKEN}))
    assert found.problems == []
    missing, unknown = sorted(found.warnings)
    assert "2 of 40 images looked at: missing, for example row 8 (absent.jpg)" in missing
    assert "2 of 40 images looked at: unknown_format, for example row 6 (x.jpg)" in unknown


def test_many_are_a_problem(tmp_path):
    found = check(shard(tmp_path / "data.parquet", dict.fromkeys(range(0, ROWS, 2), BROKEN)))
    (problem,) = found.problems
    assert "20 of 40 images cannot be used (20 unknown_format)" in problem
    assert "Mend the images" in problem


def test_each_of_several_tables_is_looked_at_and_only_rows_with_a_label(tmp_path):
    shard(tmp_path / "data" / "train-0.parquet", {3: BROKEN})
    shard(tmp_path / "data" / "test-0.parquet", {4: BROKEN | {"path": "y.jpg"}})
    (both,) = check(tmp_path / "data").warnings
    assert "2 of 80 images looked at" in both
    (one,) = check(tmp_path / "data", "data.role=train").warnings
    assert "1 of 40 images looked at" in one


def test_a_file_that_ends_early_is_a_problem(tmp_path):
    path = shard(tmp_path / "data.parquet", {})
    content = path.read_bytes()
    at = content.index(b"PNG") + 100
    path.write_bytes(content[:at] + b"\xff" * 2000 + content[at + 2000 :])
    found = check(path)
    assert found.problems or found.warnings


def test_images_whose_prompts_are_too_long_are_found(tmp_path):
    narrow = PromptLength(text=0, view=ModelView(min_pixels=16, max_pixels=10**6, factor=4), room=5)
    found = check(shard(tmp_path / "data.parquet", {}), length=narrow)
    assert "40 prompt_too_long" in " ".join(found.problems)


def test_inspection_looks_at_them_too(tmp_path):
    path = shard(tmp_path / "data.parquet", {5: BROKEN, 7: ABSENT})
    facts = inspect_source(SourceConfig(path=path), ImageConfig()).images
    assert facts is not None
    assert (facts.folder, facts.decoded, facts.broken) == (None, ROWS, {"unknown_format": 1, "missing": 1})
    assert any("row 6 (x.jpg)" in example for example in facts.examples)
    text = "\n".join(inspect_lines(path, load_config()))
    assert "inside of the table" in text
    assert "2 broken of 40 opened (1 unknown_format, 1 missing)" in text
