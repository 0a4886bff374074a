"""What the benchmarks share. TRL itself is not run here: its environment takes minutes to
install."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from bench import trl
from bench.support import environment, record
from bench.support.workloads import W1, WORKLOADS, build_model, make_images, write_images
from rapo.policy.processing import PolicyProcessor
from tools.installer import Outcome


@pytest.fixture(scope="module")
def w1(tmp_path_factory):
    return build_model(W1, tmp_path_factory.mktemp("w1") / "model")


def test_the_prompt_is_rapos_own_and_as_long_as_the_results_say(w1):
    processor = PolicyProcessor(w1)
    sizes = {name: Image.new("RGB", (workload.side, workload.side)) for name, workload in WORKLOADS.items()}
    assert len(processor.prepare(sizes["W1"]).prompt_ids) == 67
    assert len(processor.tokenizer) == 320


def test_any_text_survives_the_workload_tokenizer(w1):
    processor = PolicyProcessor(w1)
    text = "Ein schöner Abend – 日本の夕焼け 🌅 </think> 0.10"
    assert processor.decode(processor.encode_completion(text)) == text


def test_images_follow_from_the_seed_and_are_written_in_order(tmp_path):
    first, second = make_images(W1, 0), make_images(W1, 1)
    assert first == make_images(W1, 0)
    assert not set(first) & set(second)
    assert Image.open(io.BytesIO(first[0])).size == (84, 84)
    files = sorted(write_images(W1, tmp_path / "images", steps=2).iterdir())
    assert [file.read_bytes() for file in files] == first + second


def test_an_environment_with_these_pins_is_not_installed_again(tmp_path, monkeypatch):
    calls: list[tuple[str, ...]] = []

    def install(*packages: str) -> Outcome:
        calls.append(packages)
        return Outcome(0, "")

    installer = SimpleNamespace(install=install)
    monkeypatch.setattr(environment, "Installer", lambda *_: installer)
    monkeypatch.setattr(environment, "ensure_venv", lambda folder: folder.mkdir())
    monkeypatch.setattr(environment, "install_cpu_torch", lambda _: calls.append(("torch",)))
    monkeypatch.setattr(environment, "_install_hook", lambda _: None)
    for _ in range(2):
        assert environment.ensure_trl(tmp_path / "venv") == tmp_path / "venv" / "bin" / "python"
    assert len(calls) == 2, "torch, then the rest, once each"


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(environment.BenchmarkError, match="no virtual environment"):
        environment.ensure_trl(tmp_path)
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt_tokens": [66]}, "prompt"),
        ({"mean_completion_tokens": 47.5}, "completions"),
        ({"reference_model": False}, "reference model"),
        ({"gradient_norms": [0.1, 0.0]}, "gradient"),
        ({"gradient_norms": [float("nan")]}, "gradient"),
    ],
)
def test_a_comparison_with_other_work_is_refused(w1, tmp_path, monkeypatch, change, says):
    result = {"prompt_tokens": [67], "mean_completion_tokens": 48.0, "reference_model": True, "gradient_norms": [0.2]}
    images = write_images(W1, tmp_path / "images", steps=1)
    monkeypatch.setattr(trl, "_run", lambda *_: [result])
    assert trl.run_trl(W1, w1, images, [256])[0]["workload"] == "W1"
    monkeypatch.setattr(trl, "_run", lambda *_: [{**result, **change}])
    with pytest.raises(environment.BenchmarkError, match=says):
        trl.run_trl(W1, w1, images, [256])


def test_micro_batches_must_hold_whole_groups(w1, tmp_path):
    with pytest.raises(environment.BenchmarkError, match=r"\[20, 4\]"):
        trl.run_trl(W1, w1, tmp_path, [256, 20, 4])


def test_trls_side_wants_its_package_not_this_folders_namesake():
    done = trl.subprocess.run(
        [sys.executable, str(trl._SCRIPT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "python -I" in done.stderr


def test_results_are_json_and_a_table(tmp_path):
    rows = [{"what": "ours", "s": 0.123456}, {"what": "theirs", "s": 12345.6, "n": 1024}]
    path = record.write_json("x", {"rows": rows}, tmp_path / "results")
    assert json.loads(path.read_text()) == {"rows": rows}
    table = record.write_markdown("x", "Title", rows, ["A note."], tmp_path / "results").read_text()
    assert table == (
        "# Title\n\n| what | s | n |\n| --- | --- | --- |\n| ours | 0.123 |  |\n| theirs | 12,346 | 1,024 |\n\nA note.\n"
    )


def test_the_machine_and_its_versions_fit_in_a_sentence():
    sentence = record.describe(record.machine(), record.versions(["torch", "no-such-package"]))
    assert "cores" in sentence
    assert "torch" in sentence
    assert "no-such-package" not in sentence
    share = record.CpuPressure().share()
    assert share is None or share >= 0
