"""Public names: the imports that the documents show."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rapo
import rapo.client
import rapo.client.raydata
import rapo.raydata


def test_the_names_at_the_top_are_those_of_the_client() -> None:
    assert rapo.ScorerClient is rapo.client.ScorerClient
    assert rapo.AsyncScorerClient is rapo.client.AsyncScorerClient
    assert rapo.CallError is rapo.client.CallError
    with pytest.raises(AttributeError, match="nothing"):
        rapo.nothing  # noqa: B018


def test_the_step_for_data_pipelines_has_its_documented_place() -> None:
    assert rapo.raydata.ScoreImages is rapo.client.raydata.ScoreImages


def test_every_public_name_of_the_client_is_there() -> None:
    code = "from rapo.client import *; from rapo.client import ScorerClient, ScoreOptions; ScorerClient('127.0.0.1:1')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
