"""The data stage: its summary, and the index that later stages read instead of the labels."""

from __future__ import annotations

import io
import json

import pytest
from collection_files import koniq, tad66k
from label_files import make_image, rated, table

from cluster.files.report import DataFacts, Report, RunFacts
from cluster.files.run_folder import RunFolder
from cluster.files.typed_json import read_json_as
from cluster.pipeline.runner import Pipeline
from cluster.pipeline.stages.data import SUMMARY, load_data
from cluster.report.sentences import data_line
from cluster.terminal.console import Console
from rapo.config import load_config
from rapo.errors import RunFolderError


def test_later_stages_read_the_index(tmp_path, monkeypatch):
    path = table(tmp_path / "t.csv", rated(12))
    config, folder = load_config(None, [f"data.path={path}"]), RunFolder(tmp_path / "run")
    first = load_data(config, folder)
    monkeypatch.setattr(
        "cluster.pipeline.stages.data.load_dataset", lambda *_, **__: pytest.fail("the labels are read again")
    )
    assert list(load_data(config, folder).records) == list(first.records)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-5]))
    with pytest.raises(RunFolderError, match=r"t\.csv has changed since the data stage.*another --out"):
        load_data(config, folder)


def test_the_summary_has_every_set_and_what_was_left_out(tmp_path):
    koniq(tmp_path / "koniq")
    tad66k(tmp_path / "tad")
    rows = [{"image": f"{i}.png", "score": 0.5} for i in range(4)]
    test = table(tmp_path / "mine.csv", rows)
    make_image(tmp_path / "koniq" / "1024x768" / "10004473.jpg", 0)
    (tmp_path / "0.png").write_bytes((tmp_path / "koniq" / "1024x768" / "10004473.jpg").read_bytes())
    sources = f'[{{path="{tmp_path}/koniq"}},{{path="{tmp_path}/tad",normalizer="max"}},{{path="{test}",role="test"}}]'
    folder = RunFolder(tmp_path / "run")
    load_data(load_config(None, [f"data.sources={sources}"]), folder)
    summary = json.loads((folder / "data" / SUMMARY).read_text())
    assert [item["image"] for item in summary["leaked_images"]] == ["koniq/10004473.jpg"]
    facts = read_json_as(folder / "data" / SUMMARY, DataFacts)
    assert (facts.native_range, facts.normalizer) == (None, None)
    assert facts.sets["tad66k"].normalizer == "max"
    line = data_line(Report(run=RunFacts(0, ""), data=facts))
    assert "scores of koniq from 0 to 100, tad66k from 1 to 10, mine from 0 to 1" in line


def test_a_run_without_images_for_validation_says_so(tmp_path):
    rows = [{**row, "split": ("train", "validation", "test")[max(0, i - 9)]} for i, row in enumerate(rated(12))]
    path = table(tmp_path / "t.csv", rows)
    (tmp_path / "img/10.png").write_bytes((tmp_path / "img/11.png").read_bytes())  # validation is in test
    config, folder, stream = load_config(None, [f"data.path={path}"]), RunFolder(tmp_path / "run"), io.StringIO()
    with folder.open(config):
        Pipeline(config, folder, Console(stderr=stream, stdout=stream)).run(("data",))
    assert "data: no image is left for validation" in stream.getvalue()
