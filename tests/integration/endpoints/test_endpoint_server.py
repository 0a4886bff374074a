"""Teacher and judge against `vllm serve`, a server that a user would have, with the embedded model.

The model has random weights, so what it writes means nothing. What counts is that a real server
takes the requests, and that its answers, tokens and refusals are read.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
from PIL import Image

from rapo.aescot.check import check_endpoints
from rapo.aescot.model_judge import ModelJudge, WrittenImage
from rapo.aescot.teacher import RatedImage, open_teacher
from rapo.config import Config, GroundingJudgeConfig, ImageConfig, TinyModelConfig, load_config
from rapo.datasets.scenes import render_scene
from rapo.explanations.grounding_judge import JUDGE_SECTION, Explained, GroundingJudge
from rapo.inference.environment import engine_environment
from tests.integration.test_serve_command import until
from tests.limits import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.long]

KEY = "sk-of-the-test"


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a key, in a process of its own."""
    from rapo.aescot.writer import phrases
    from rapo.families.tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("served") / "tiny"
    build_tiny_model(folder, TinyModelConfig(), 0, phrases())
    port, log = free_port(), folder.parent / "server.log"
    settings = f"--host 127.0.0.1 --port {port} --served-model-name tiny --max-model-len 2048 --enforce-eager"
    module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", module, "--model", str(folder), *settings.split(), "--api-key", KEY]
    environment = {**os.environ, **engine_environment(1, 1.0), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as server:
        try:
            until(lambda: server.poll() is not None or answers(port), PATIENCE_S, lambda: log.read_text()[-2000:])
            assert server.poll() is None, log.read_text()[-4000:]
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def config(base_url: str, role: str, *settings: str) -> Config:
    endpoint = (
        "kind=openai",
        "model=tiny",
        f"endpoint.base_url={base_url}",
        "endpoint.key_env=RAPO_TEST_KEY",
        *settings,
    )
    return load_config(None, [f"aescot.{role}.{setting}" for setting in endpoint])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPO_TEST_KEY", KEY)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(render_scene(np.random.default_rng(seed), 84).image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_served_model_answers_and_its_tokens_are_counted(base_url: str) -> None:
    asked = config(base_url, "teacher", "temperature=1.0", "max_tokens=300")
    assert check_endpoints(asked) == []
    teacher = open_teacher(asked)
    written = teacher.write([RatedImage(f"u{i}", png(i), 0.3) for i in range(4)])
    torn = teacher.write([RatedImage("t", png(0)[:60], 0.3)])
    teacher.close()
    for one in written:
        assert one.text or one.fault == "unusable"
        assert one.model == "tiny"
        assert one.usage.prompt_tokens > 100
        assert 0 < one.usage.completion_tokens <= 300
    assert torn[0].fault == "image"


def test_a_served_model_votes_in_the_form_of_the_schema(base_url: str) -> None:
    judge = ModelJudge(config(base_url, "judge", "votes=2", "json_schema=true", "max_tokens=400"))
    verdicts = judge.judge([WrittenImage(f"u{i}", png(i), 0.4, "Soft light.") for i in range(3)])
    judge.close()
    for verdict in verdicts:
        assert verdict.keep or verdict.reason in ("misaligned", "factual", "judge")
        assert verdict.reason != "judge" or "max_tokens" in verdict.detail
        assert verdict.usage.completion_tokens > 0


def test_a_served_model_says_what_an_image_bears_out(base_url: str) -> None:
    endpoint = {"base_url": base_url, "key_env": "RAPO_TEST_KEY"}
    asked = {
        "kind": "openai",
        "model": "tiny",
        "votes": 3,
        "json_schema": True,
        "max_tokens": 400,
        "endpoint": endpoint,
    }
    settings = GroundingJudgeConfig.model_validate(asked)
    explained = [Explained(png(i), text) for i in range(3) for text in ("Soft light.", "A dog.", "Soft light.")]
    batches = []
    for _ in range(2):
        judge = GroundingJudge(settings, ImageConfig(), JUDGE_SECTION)
        batches.append(judge.judge(explained))
        judge.close()
    first, again = batches
    assert [one.fits for one in first.verdicts] == [one.fits for one in again.verdicts]
    assert any(one.fits is not None for one in first.verdicts)
    assert all(one.fits or "max_tokens" in one.problem for one in first.verdicts)
    assert first.used.completion_tokens > 0


def test_what_the_server_refuses_is_said(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = [RatedImage("u", png(0), 0.3)]
    long = open_teacher(config(base_url, "teacher", "max_tokens=100000")).write(image)[0]
    assert long.fault == "unusable"
    assert "100000" in (long.problem or "")
    absent = config(base_url, "teacher", "model=absent")
    assert "tiny" in check_endpoints(absent)[0]
    unknown = open_teacher(absent).write(image)[0]
    assert (unknown.fault, "no such model" in (unknown.problem or "")) == ("stopped", True)
    monkeypatch.setenv("RAPO_TEST_KEY", "sk-wrong")
    keyless = config(base_url, "teacher")
    assert "key" in check_endpoints(keyless)[0]
    refused = open_teacher(keyless).write(image)[0]
    assert refused.fault == "stopped"
    assert "key_env" in (refused.problem or "")
    assert "sk-wrong" not in (refused.problem or "")
