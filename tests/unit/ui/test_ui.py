"""The page for people: its endpoints over a scripted scorer, and the refusal of other pages."""

from __future__ import annotations

import io
import json
import socket
import urllib.request
from collections.abc import Iterator

import pytest
from fake_scorer import FakeScorer, busy, serving
from PIL import Image
from starlette.testclient import TestClient

from rapo.client import AsyncScorerClient
from rapo.config import ImageConfig
from rapo.errors import ResourceError
from rapo.images.model_view import ModelView
from services.ui.server import PageServer, PageSettings, build_page

PORT = 8501
HERE = f"http://127.0.0.1:{PORT}"
LIMIT = 100_000


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def settings(scorer: FakeScorer) -> Iterator[PageSettings]:
    with serving(scorer) as target:
        yield PageSettings(
            client=lambda: AsyncScorerClient(target, timeout=5, attempts=1),
            view=lambda: ModelView(min_pixels=56 * 56, max_pixels=84 * 84, factor=28),
            limits=ImageConfig(max_bytes=LIMIT),
        )


@pytest.fixture
def page(settings: PageSettings) -> Iterator[TestClient]:
    with TestClient(build_page(settings, PORT), base_url=HERE, headers={"Origin": HERE}) as page:
        yield page


def events(text: str) -> list[tuple[str, object]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format="PNG")
    return buffer.getvalue()


def test_the_page_and_its_parts_are_there(page: TestClient) -> None:
    assert "<main>" in page.get("/").text
    for name, kind in (("app.js", "javascript"), ("style.css", "css"), ("icon.svg", "svg")):
        answer = page.get(f"/static/{name}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
    assert page.get("/static/../ui.py").status_code == 404
    assert page.get("/docs").status_code == 404


def test_the_model_is_described(page: TestClient) -> None:
    model = page.get("/api/model").json()
    assert (model["model_version"], model["score_range"], model["max_image_bytes"]) == ("v7", [0.0, 1.0], LIMIT)
    assert model["view"] is True
    assert model["interval"] == {"coverage": 0.9, "readout": "expected", "images": 256}
    assert model["readouts"] == ["expected", "greedy"]  # a readout unknown to this client is not offered


def test_the_rationale_streams_and_the_result_ends_it(page: TestClient, scorer: FakeScorer) -> None:
    answer = page.post("/api/explain?readout=greedy", content=b"42")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, (last, result) = events(answer.text)
    assert pieces == [("piece", "soft "), ("piece", "light")]
    assert last == "result"
    assert isinstance(result, dict)
    assert (result["score"], result["readout"], result["std"]) == (0.42, "greedy", None)
    assert result["interval"] is result["model_interval"] is None
    default = dict(events(page.post("/api/explain", content=b"42").text))["result"]
    assert isinstance(default, dict)
    assert default["interval"] == {"low": pytest.approx(0.12), "high": pytest.approx(0.52), "coverage": 0.9}
    assert default["model_interval"] == {"low": pytest.approx(0.22), "high": pytest.approx(0.62)}


def test_a_refusal_is_an_event_with_the_scorers_words(page: TestClient, scorer: FakeScorer) -> None:
    ((name, error),) = events(page.post("/api/explain", content=b"bad").text)
    assert name == "error"
    assert isinstance(error, dict)
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "unknown_format")
    scorer.failures = [busy()]
    ((name, error),) = events(page.post("/api/explain", content=b"42").text)
    assert isinstance(error, dict)
    assert error["code"] == "RESOURCE_EXHAUSTED"
    ((name, error),) = events(page.post("/api/explain?readout=best", content=b"42").text)
    assert "best" in str(error)


def test_two_are_compared(page: TestClient) -> None:
    answer = page.post("/api/compare?first=2", content=b"80" + b"20").json()
    assert answer["scores"] == [0.8, 0.2]
    assert answer["preference"] > 0.9
    assert page.post("/api/compare?first=2", content=b"80bad").status_code == 422
    for first in ("", "0", "4", "-1", "x", "%C2%B2", "%D9%A2", "9" * 5000):
        assert page.post(f"/api/compare?first={first}", content=b"8020").status_code == 422


def test_the_model_view_comes_as_an_image(page: TestClient) -> None:
    answer = page.post("/api/seen", content=png((300, 200)))
    assert answer.headers["content-type"] == "image/png"
    assert (answer.headers["x-size"], answer.headers["x-original"]) == ("84x56", "300x200")
    assert Image.open(io.BytesIO(answer.content)).size == (84, 56)
    assert page.post("/api/seen", content=b"nonsense").status_code == 422


def test_uploads_have_a_limit_declared_or_not(page: TestClient, scorer: FakeScorer) -> None:
    assert page.post("/api/explain", content=b"1" * (LIMIT + 1)).status_code == 413
    assert page.post("/api/explain", content=iter([b"1" * LIMIT, b"1"])).status_code == 413
    assert page.post("/api/explain", content=b"").status_code == 422
    assert not scorer.requests


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": f"evil.example:{PORT}", "Origin": f"http://evil.example:{PORT}"},
        {"Host": "127.0.0.1:9999"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Origin": f"http://localhost:{PORT}"},
    ],
)
def test_other_pages_are_kept_out(settings: PageSettings, scorer: FakeScorer, headers: dict[str, str]) -> None:
    with TestClient(build_page(settings, PORT), base_url=HERE) as page:
        assert page.get("/api/model", headers=headers).status_code == 403
        assert page.post("/api/explain", content=b"42", headers={"Origin": HERE, **headers}).status_code == 403
    assert not scorer.metadata


def test_a_post_must_say_where_it_comes_from(settings: PageSettings) -> None:
    with TestClient(build_page(settings, PORT), base_url=HERE) as page:
        assert page.post("/api/explain", content=b"42").status_code == 403
        assert page.get("/").status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(page: TestClient) -> None:
    for path in ("/", "/static/app.js", "/nothing"):
        headers = page.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_server_listens_on_loopback_and_stops(settings: PageSettings) -> None:
    with PageServer(settings) as server:
        assert server.address == f"http://127.0.0.1:{server.port}/"
        with urllib.request.urlopen(f"{server.address}api/model", timeout=10) as answer:
            assert json.load(answer)["model_version"] == "v7"
        taken = PageSettings(client=settings.client, port=server.port)
        with pytest.raises(ResourceError, match=r"serve\.ui_port"), PageServer(taken):
            pass
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
