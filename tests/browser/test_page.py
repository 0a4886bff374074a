"""The page for people in a real browser, over a scripted scorer (`make browser`; screenshots go to
runs/browser)."""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from rapo.client import AsyncScorerClient
from rapo.images.model_view import ModelView
from rapo.v1 import scorer_pb2
from services.ui.server import PageServer, PageSettings
from tests.browser.webdriver import Browser, browser
from tests.unit.fake_scorer import FakeScorer, serving

SHOTS = Path("runs/browser")
ENTER, SPACE, ESCAPE = "\ue007", " ", "\ue00c"


class ShadeScorer(FakeScorer):
    """Scores an image by its brightness."""

    def _answer(self, request):
        try:
            shade = Image.open(io.BytesIO(request.image)).convert("L").getpixel((0, 0))
        except OSError:
            return super()._answer(request)
        digits = str(round(float(shade) / 2.55)).encode()
        return super()._answer(scorer_pb2.ScoreRequest(image=digits, readout=request.readout))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    view = ModelView(min_pixels=56 * 56, max_pixels=84 * 84, factor=28)
    with serving(ShadeScorer()) as target:
        settings = PageSettings(client=lambda: AsyncScorerClient(target, timeout=10), view=lambda: view)
        with PageServer(settings) as page:
            yield page.address


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Browser]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    with browser(tmp_path / "profile") as opened:
        opened.go(address)
        opened.wait(lambda: "v7" in opened.text("#model"))
        yield opened


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("dark", "bright", "grey")]
    for path, shade in zip(paths, (51, 204, 128), strict=True):
        Image.new("RGB", (300, 200), (shade, shade, shade)).save(path)
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    return [*paths, broken]


def column(page: Browser, css: str) -> list[str]:
    return page.run("return [...document.querySelectorAll(arguments[0])].map((item) => item.textContent)", css)


def drop(page: Browser, paths: list[Path]) -> None:
    page.type("#files", "\n".join(map(str, paths)))
    page.wait(lambda: "answered" in page.text("#status") and " of " not in page.text("#status"))


def test_images_are_ranked_compared_and_looked_at(page: Browser, images: list[Path]) -> None:
    drop(page, images)
    page.screenshot(SHOTS / "ranked.png")
    assert column(page, ".card .name") == ["bright.png", "grey.png", "dark.png", "broken.png"]
    assert column(page, ".card .score") == ["0.80 ± 0.10", "0.50 ± 0.10", "0.20 ± 0.10", "no score"]
    assert column(page, ".card .rationale")[0] == "soft light"
    assert "not an image" in column(page, ".card .rationale")[3]
    assert "0.60 to 1.00" in page.run("return document.querySelector('.scale').getAttribute('aria-label')")

    for place, key in ((0, SPACE), (2, ENTER)):  # by keyboard alone
        page.run("document.querySelectorAll('.pick')[arguments[0]].focus()", place)
        page.press(key)
    page.wait(lambda: "probability" in page.text("#odds-text"))
    assert page.text("#odds-text").startswith("bright.png is preferred with a probability of 9")
    page.screenshot(SHOTS / "compared.png")

    page.run("document.querySelector('.view').focus()")
    page.press(ENTER)
    page.wait(lambda: "84 × 56" in page.text("#seen-model-size"))
    page.wait(lambda: page.run("return document.getElementById('seen-model').naturalWidth") == 84)
    page.screenshot(SHOTS / "seen.png")
    page.press(ESCAPE)
    page.wait(lambda: not page.run("return document.getElementById('seen').open"))
    assert page.complaints() == []


def test_another_readout_asks_again(page: Browser, images: list[Path]) -> None:
    drop(page, images[:2])
    page.run(
        "const list = document.getElementById('readout'); list.value = 'greedy'; list.dispatchEvent(new Event('change'))"
    )
    page.wait(lambda: column(page, ".card .score") == ["0.80", "0.20"])
    page.click(".card .remove")
    assert column(page, ".card .name") == ["dark.png"]
    page.click("#clear")
    assert column(page, ".card .name") == []
    assert page.complaints() == []


def test_a_page_elsewhere_gets_nothing(page: Browser, address: str) -> None:
    request = urllib.request.Request(f"{address}api/model", headers={"Host": "127.0.0.1:1"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
    page.go("about:blank")
    sent = (
        "return fetch(arguments[0], {method: 'POST', body: 'x', mode: 'no-cors'}).then((a) => a.type, (e) => 'refused')"
    )
    assert page.run(sent, f"{address}api/explain") in ("opaque", "refused")
    read = "return fetch(arguments[0]).then((a) => a.status, (e) => 'refused')"
    assert page.run(read, f"{address}api/model") == "refused"
