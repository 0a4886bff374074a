"""Completeness: a folder with a wrong parameter is refused by check and trainer alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.cli.check import problems
from rapo.config import load_config
from rapo.errors import ModelError
from rapo.models.completeness import check_parameters, check_teacher_parameters
from rapo.models.separate_check import parameters_checked
from rapo.models.weight_files import SINGLE
from rapo.policy.trainer import load_model

State = dict[str, torch.Tensor]
HEAD, NORM = "lm_head.weight", "model.norm.weight"


@pytest.fixture
def changed(tiny_model: Path, tmp_path: Path) -> Callable[[Callable[[State], State | None]], Path]:
    """Makes a copy of the tiny model whose tensors a function has changed."""

    def change(edit: Callable[[State], State | None]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        state = load_file(folder / SINGLE)
        save_file(edit(state) or state, folder / SINGLE, {"format": "pt"})
        return folder

    return change


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def renamed(state: State) -> State:
    """The layers of the text model under a name that no program uses."""
    return {name.replace("model.layers.", "decoder.blocks."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (without(HEAD), r"1 missing \(lm_head\.weight\)\. Is config\.json"),
        (lambda state: state | {"extra": torch.ones(2)}, r"1 unexpected \(extra\)"),
        (lambda state: state | {NORM: torch.ones(3)}, r"1 of the wrong shape \(.*norm\.weight 3 instead of 64\)"),
        (renamed, r"\d\d missing \(.*\); \d\d unexpected \(.*decoder\.blocks.*another program"),
    ],
    ids=["missing", "unexpected", "shape", "names"],
)
def test_what_does_not_fit_is_refused_by_check_and_trainer(changed, edit, said):
    folder = changed(edit)
    with pytest.raises(ModelError, match=said) as caught:
        check_parameters(folder)
    assert str(folder) in str(caught.value)
    with pytest.raises(ModelError, match=said):
        load_model(folder, "float32")
    config = load_config(None, [f"policy.model={folder}"])
    assert str(caught.value) in problems(config, ("coldstart",))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"model_type": "of_tomorrow"}, r"`of_tomorrow` but Transformers does not recognize"),
        ({"text_config": "small"}, "text_config"),
        ({"tie_word_embeddings": "sometimes"}, "tie_word_embeddings"),
    ],
)
def test_a_configuration_that_transformers_refuses_is_named(changed, edit, said):
    folder = changed(lambda state: None)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(ModelError, match=said) as caught:
        check_parameters(folder)
    assert f"cannot use config.json in {folder}: " in str(caught.value)
    assert str(caught.value) in problems(load_config(None, [f"policy.model={folder}"]), ("coldstart",))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_when_they_are_loaded(changed, value):
    def damage(state: State) -> None:
        state[NORM][5] = value

    folder = changed(damage)
    check_parameters(folder)
    with pytest.raises(ModelError, match=r"1 parameters hold NaN or infinity \(.*norm\.weight\)"):
        load_model(folder, "bfloat16")


def test_other_names_that_transformers_maps_are_fine(changed, tiny_model):
    """The names of modules in memory, as trainers write them that save a state dict."""
    names = [name for name, _ in load_model(tiny_model, "float32").named_parameters()]

    def in_memory(state: State) -> State:
        assert set(names) != set(state)
        return dict(load_model(tiny_model, "float32").named_parameters())

    folder = changed(in_memory)
    check_parameters(folder)
    ours, theirs = load_model(folder, "float32"), load_model(tiny_model, "float32")
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_tied_embeddings_need_no_head(changed):
    folder = changed(without(HEAD))
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    check_parameters(folder)
    assert load_model(folder, "float32").lm_head.weight.abs().sum() > 0


def test_a_teacher_may_have_more_but_not_less(changed, tmp_path):
    folder = changed(lambda state: state | {"mtp.extra": torch.ones(2)})
    check_teacher_parameters(folder)
    save_file(without(HEAD)(load_file(folder / SINGLE)), folder / SINGLE, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing \(lm_head\.weight\)"):
        check_teacher_parameters(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "of another program", "architectures": ["X"]}))
    check_teacher_parameters(folder)


def test_a_check_beside_other_work_refuses_the_same(changed, tiny_model):
    folder, done = changed(without(HEAD)), []
    with pytest.raises(ModelError) as direct:
        check_parameters(folder)
    with pytest.raises(ModelError) as caught, parameters_checked([tiny_model, folder]):
        done.append("work")
    assert (str(caught.value), done) == (str(direct.value), ["work"]), "and the sound one before it is not refused"


def test_an_error_of_the_other_work_ends_the_check(changed):
    with pytest.raises(ZeroDivisionError), parameters_checked([changed(without(HEAD))]):
        _ = 1 / 0
