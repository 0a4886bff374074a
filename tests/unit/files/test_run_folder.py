import fcntl
from contextlib import suppress

import pytest

from cluster.files.run_folder import RunFolder
from cluster.pipeline.results import RapoResult, ServeResult
from rapo.config import load_config
from rapo.errors import RunFolderError


def opened(path, *overrides):
    with RunFolder(path).open(load_config(None, overrides)):
        pass


def test_a_new_folder_gets_the_resolved_configuration(tmp_path):
    opened(tmp_path / "deep" / "run", "rapo.steps=9")
    assert load_config(tmp_path / "deep" / "run" / "config.toml") == load_config(None, ["rapo.steps=9"])


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with (
        RunFolder(tmp_path).open(load_config()),
        pytest.raises(RunFolderError, match=f"another run is working in {tmp_path}"),
        RunFolder(tmp_path).open(load_config()),
    ):
        pass
    opened(tmp_path)  # and the lock ends with the first


def test_the_lock_ends_with_a_run_that_fails(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path).open(load_config()):
        raise KeyError
    opened(tmp_path)


def test_another_process_sees_the_lock(tmp_path):
    """`flock` binds processes, whatever they are; a mere in-process flag would not."""
    with (
        RunFolder(tmp_path).open(load_config()),
        (tmp_path / ".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    opened(tmp_path)
    RunFolder(tmp_path).finish("data", 1.0)
    with pytest.raises(RunFolderError) as caught:
        opened(tmp_path, "rapo.steps=9", "run.seed=4", "serve.port=0")
    assert "Differing keys: rapo.steps: 120 -> 9; run.seed: 0 -> 4." in str(caught.value)
    assert load_config(tmp_path / "config.toml") == load_config(), "a refused run must not leave its own"


def test_a_folder_in_which_nothing_was_finished_binds_nothing(tmp_path):
    opened(tmp_path, "data.path=/mistyped.csv")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.json").write_text("of the mistyped path")
    (tmp_path / "driver.log").write_text("kept")
    with RunFolder(tmp_path).open(load_config(None, ["data.path=/typed.csv"])) as replaced:
        assert replaced == ["data.path: '/mistyped.csv' -> '/typed.csv'"]
        assert not (tmp_path / "data").exists(), "what the other configuration left must not be taken for its own"
        assert (tmp_path / "driver.log").read_text() == "kept"
        with (
            pytest.raises(RunFolderError, match="another run is working"),
            RunFolder(tmp_path).open(load_config(None, ["run.seed=4"])),
        ):
            pass
    with RunFolder(tmp_path).open(load_config(None, ["data.path=/typed.csv"])) as replaced:
        assert replaced == []


def test_files_that_were_there_before_a_run_are_never_removed(tmp_path):
    """A project whose configuration is called config.toml and whose images lie in data/."""
    (tmp_path / "config.toml").write_text('[data]\npath = "data/labels.csv"\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("precious")
    for override in ("data.path=data/labels.csv", "data.path=/abs/data/labels.csv", "rapo.steps=9"):
        with suppress(RunFolderError):
            opened(tmp_path, override)
        assert (tmp_path / "data" / "labels.csv").read_text() == "precious"
    with pytest.raises(RunFolderError, match="made by another configuration"):
        opened(tmp_path, "rapo.steps=9")


def test_answers_that_were_paid_for_bind_a_folder_whose_data_were_removed(tmp_path):
    opened(tmp_path)
    shard = tmp_path / "aescot" / "shards" / "00-00000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_text("paid for")
    with pytest.raises(RunFolderError, match=r"Differing keys: rapo\.steps"):
        opened(tmp_path, "rapo.steps=9")
    assert shard.read_text() == "paid for"


@pytest.mark.parametrize(
    "override",
    [
        "ray.address=auto",
        "ray.object_store_mib=100",
        "serve.port=0",
        "rollout.start_timeout_s=1",
        "rollout.generate_timeout_s=1",
        "rollout.load_timeout_s=1",
        "learner.start_timeout_s=1",
        "learner.step_timeout_s=1",
        "coldstart.timeout_s=1",
    ],
)
def test_how_a_run_is_executed_may_change(tmp_path, override):
    opened(tmp_path)
    opened(tmp_path, override)
    assert load_config(tmp_path / "config.toml") == load_config(None, [override]), "the folder tells the latest"


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="is not empty and is no run folder"):
        opened(tmp_path)
    assert not (tmp_path / "config.toml").exists()
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_lock_alone_does_not_make_it_foreign(tmp_path):
    (tmp_path / ".lock").write_text("")
    opened(tmp_path)
    assert (tmp_path / "config.toml").is_file()


def test_a_refused_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(RunFolderError, match="not empty"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_file_in_its_place_or_a_damaged_one_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match="is a file, not a folder"):
            opened(path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("[rapo]\nno_such_key = 1\n")
    with pytest.raises(RunFolderError, match=r"another version of rapo or is damaged: .*no_such_key"):
        opened(tmp_path / "run")


@pytest.mark.parametrize("method", ["mkdir", "open"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, method):
    config = load_config()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), method, refuse)
    with pytest.raises(RunFolderError, match="cannot be written: Permission denied"), RunFolder(tmp_path).open(config):
        pass


def test_a_stage_is_finished_once_it_says_so(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.finished("rapo") is None
    (folder / "rapo").mkdir()
    assert folder.finished("rapo") is None, "begun is not finished"
    result = RapoResult("m", 4, 9, [{"step": 4, "srcc": 0.5}], {"rollout": 0.1, "learner": 0.2})
    folder.finish("rapo", 1.5, result)
    done = folder.finished("rapo")
    assert done is not None
    assert done.seconds == 1.5
    assert folder.result("rapo", RapoResult) == result
    with pytest.raises(RunFolderError, match=r"done\.json was written by another version .*\(images: Field required\)"):
        folder.result("rapo", ServeResult)
    (folder / "rapo" / "done.json").write_text("{")
    with pytest.raises(RunFolderError, match="not valid JSON"):
        folder.finished("rapo")
