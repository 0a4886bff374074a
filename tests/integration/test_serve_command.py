"""`rapo serve` as a team runs it: TLS, tokens, several versions from a file that changes while
callers ask."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from rapo.client.sync import CallError, ScorerClient
from tests.integration.conftest import make_image
from tests.limits import PATIENCE_S
from tests.small import rapo
from tests.unit.serving import Authority

pytestmark = [pytest.mark.integration, pytest.mark.long]

#: Nothing listens there; a service on this machine is reached past them.
PROXIES = {"http_proxy": "http://127.0.0.1:9", "grpc_proxy": "http://127.0.0.1:9"}


class Service:
    """The command in a process of its own, and what it has said so far."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "rapo", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **PROXIES, "CI": "true"},
        )
        self.said = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def hears(self, pattern: str) -> re.Match[str]:
        until(lambda: re.search(pattern, self.said) or self.process.poll() is not None, said=lambda: self.said)
        found = re.search(pattern, self.said)
        assert found, self.said
        return found


def until(true: Callable[[], object], limit_s: float = PATIENCE_S, said: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s. {said()}"
        time.sleep(0.1)


@contextmanager
def service(*arguments: str) -> Iterator[Service]:
    running = Service(*arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(PATIENCE_S)


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    make_image(shade).save(buffer, "JPEG")
    return buffer.getvalue()


def write_token(path: Path, client: str) -> str:
    """A new tokens file that knows this client alone; its token."""
    said = rapo("token", client)
    assert said.returncode == 0, said.stderr
    line = re.search(rf'^ *({client} = "[0-9a-f]{{64}}")$', said.stdout, re.MULTILINE)
    token = re.search(r"^ *([A-Za-z0-9_-]{43})$", said.stdout, re.MULTILINE)
    assert line, said.stdout
    assert token, said.stdout
    path.write_text(line[1] + "\n")
    return token[1]


def write_models(path: Path, default: str, **folders: Path) -> None:
    """The file as a tool would replace it: at once."""
    lines = [f"{version} = {json.dumps(str(folder))}" for version, folder in folders.items()]
    aside = path.with_suffix(".new")
    aside.write_text("\n".join([f"default = {json.dumps(default)}", "[models]", *lines]) + "\n")
    aside.replace(path)


def test_versions_tokens_and_tls_while_callers_ask(taught_model: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tokens, models, image = tmp_path / "tokens.toml", tmp_path / "models.toml", tmp_path / "dark.jpg"
    make_image(20).save(image, "JPEG")
    token = write_token(tokens, "web")
    write_models(models, "v1", v1=taught_model)
    changes = {
        "serve.port": "0",
        "serve.threads": "1",
        "policy.max_completion_tokens": "32",
        "serve.gateway.certificate": str(certificate),
        "serve.gateway.key": str(key),
        "serve.gateway.tokens": str(tokens),
    }
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    with service("serve", "--models", str(models), *settings) as running:
        address = running.hears(r"answers at (\S+?);")[1]
        with ScorerClient(address, ca=authority.path, token=token) as client:
            assert client.score(image).model_version == "v1"
            roll_out(running, client, models, image, taught_model)

            # The command for people, with the same means.
            (tmp_path / "token").write_text(token + "\n")
            table = tmp_path / "scores.csv"
            asked = ["--server", address, "--ca", str(authority.path), "--token-file", str(tmp_path / "token")]
            scored = rapo("score", str(image), *asked, "-o", str(table))
            assert scored.returncode == 0, scored.stdout + scored.stderr
            assert ",v2," in table.read_text()

            with service("ui", *asked, "--port", "0", "--model", str(taught_model)) as page:
                look_at(page.hears(r"web page is (\S+?);")[1], image)

            # Another token takes this one's place: whoever has the old one is out.
            other = write_token(tokens, "batch")
            until(lambda: refused(client, image) == "UNAUTHENTICATED")
        with ScorerClient(address, timeout=5, attempts=1) as plain:
            assert refused(plain, image) == "UNAVAILABLE", "nobody comes in without TLS"
        with ScorerClient(address, ca=authority.path, token=other) as client, ThreadPoolExecutor(1) as pool:
            assert client.score(image).model_version == "v2"
            # What is under way when the service is told to go gets its answer.
            dark = [jpeg(shade) for shade in range(5, 37)]
            began = time.monotonic()
            client.score_batch([jpeg(shade) for shade in range(205, 237)], readout="sampled", samples=32)
            usual = time.monotonic() - began
            batch = pool.submit(client.score_batch, dark, readout="sampled", samples=32)
            time.sleep(usual / 2)
            assert not batch.done()
            running.process.send_signal(signal.SIGTERM)
            assert [outcome.error for outcome in batch.result(60)] == [None] * len(dark)
        assert running.process.wait(PATIENCE_S) == 0, running.said
        assert token not in running.said
        assert other not in running.said


def roll_out(running: Service, client: ScorerClient, models: Path, image: Path, folder: Path) -> None:
    """A broken file changes nothing; v2 takes over from v1 with no call failing."""
    versions: list[str] = []
    stop, failed = threading.Event(), list[CallError]()

    def ask() -> None:
        while not stop.is_set():
            try:
                versions.append(client.score(image).model_version)
            except CallError as error:
                failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        log = Path(running.hears(r"Library output: (\S+)")[1])
        models.write_text("default = ")
        until(lambda: "the old content stays in force" in log.read_text())
        assert running.process.poll() is None
        write_models(models, "v2", v2=folder)
        running.hears("now serving v2")
        count = len(versions)
        until(lambda: len(versions) > count + 5 or failed)
    finally:
        stop.set()
        asking.join(60)
    assert failed == []
    assert versions[0] == "v1"
    assert versions[-1] == "v2"
    assert sorted(versions) == versions, "nobody is sent back"


def look_at(page: str, image: Path) -> None:
    """What the page's script asks for: the model, an image's words and score, and what the model
    saw of it."""
    with httpx2.Client(base_url=page, timeout=60, headers={"Origin": page.rstrip("/")}) as browser:
        assert "<title>" in browser.get("/").text
        assert browser.get("/api/model").json()["model_version"] == "v2"
        told = browser.post("/api/explain", content=image.read_bytes())
        assert told.status_code == 200, told.text
        *_, (kind, data) = re.findall(r"event: (\w+)\ndata: (.*)\n", told.text)
        assert kind == "result"
        assert json.loads(data)["score"] == pytest.approx(0.21, abs=0.02)
        seen = browser.post("/api/seen", content=image.read_bytes())
        assert seen.headers["content-type"] == "image/png"
        assert seen.content.startswith(b"\x89PNG")


def refused(client: ScorerClient, image: Path) -> str | None:
    try:
        client.score(image)
    except CallError as error:
        return error.code
    return None
