import pytest

from rapo.util.atomic_dir import whole_folder


def test_the_folder_replaces_the_old_one_at_the_end(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with whole_folder(target) as aside:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "new").write_text("x")
        assert (target / "old").is_file()
    assert [p.relative_to(target).as_posix() for p in sorted(target.rglob("*"))] == ["deep", "deep/new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_the_old_one_and_the_next_attempt_starts_clean(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()

    def fail() -> None:
        with whole_folder(target) as aside:
            aside.mkdir()
            (aside / "half").touch()
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        fail()
    assert (target / "old").is_file()
    with whole_folder(target) as aside:
        assert not aside.exists()
        aside.mkdir()
    assert list(target.iterdir()) == []
