import os
import sys
from pathlib import Path

from rapo import system_folder

ROOT = str(Path(__file__).resolve().parents[2])


def test_in_a_checkout_it_is_the_root():
    assert str(system_folder.SYSTEM_FOLDER) == ROOT


def test_it_comes_first_and_once(monkeypatch):
    monkeypatch.setattr(sys, "path", ["elsewhere", ROOT])
    system_folder.add_to_path()
    system_folder.add_to_path()
    assert sys.path == [ROOT, "elsewhere", ROOT]


def test_a_users_pythonpath_stays_behind_it():
    users = os.pathsep.join(["mine", ROOT, "", "yours"])
    assert system_folder.python_path({"PYTHONPATH": users}) == os.pathsep.join([ROOT, "mine", "yours"])
    assert system_folder.python_path({}) == ROOT
