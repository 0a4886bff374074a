"""The page for people in headless Chromium, over a scripted scorer (`make browser`; screenshots go
to runs/browser)."""

from __future__ import annotations

import io
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from rapo.client import AsyncScorerClient
from rapo.images.model_view import ModelView
from rapo.v1 import scorer_pb2
from services.ui.server import PageServer, PageSettings
from tests.unit.fake_scorer import FakeScorer, serving

SHOTS = Path("runs/browser")
LIMIT_S = 30.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--window-size=1200,1400")  # fmt: skip


class ShadeScorer(FakeScorer):
    """Scores an image by its brightness."""

    def _answer(self, request):
        try:
            shade = Image.open(io.BytesIO(request.image)).convert("L").getpixel((0, 0))
        except OSError:
            return super()._answer(request)
        assert isinstance(shade, int)
        digits = str(round(shade / 2.55)).encode()
        return super()._answer(scorer_pb2.ScoreRequest(image=digits, readout=request.readout))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    view = ModelView(min_pixels=56 * 56, max_pixels=84 * 84, factor=28)
    with serving(ShadeScorer()) as target:
        settings = PageSettings(client=lambda: AsyncScorerClient(target, timeout=10), view=lambda: view)
        with PageServer(settings) as page:
            yield page.address


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Chrome]:
    """The page in a browser with a fresh profile."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    driver = shutil.which("chromedriver")
    assert driver is not None, "this test needs Debian's chromium and chromium-driver: install them"
    options = ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options, ChromeService(driver)) as browser:
        browser.set_page_load_timeout(LIMIT_S)
        browser.set_script_timeout(LIMIT_S)
        browser.get(address)
        wait(browser, lambda: "v7" in text(browser, "#model"))
        yield browser


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("dark", "bright", "grey")]
    for path, shade in zip(paths, (51, 204, 128), strict=True):
        Image.new("RGB", (300, 200), (shade, shade, shade)).save(path)
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    return [*paths, broken]


def wait(page: Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(page, LIMIT_S, poll_frequency=0.05).until(lambda _: condition())


def text(page: Chrome, css: str) -> str:
    return page.find_element(By.CSS_SELECTOR, css).text


def column(page: Chrome, css: str) -> list[str]:
    """What the elements hold, hidden text too, in their order."""
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((item) => item.textContent)", css
    )


def press(page: Chrome, key: str) -> None:
    """One key, to whatever has the focus."""
    ActionChains(page).send_keys(key).perform()


def drop(page: Chrome, paths: list[Path]) -> None:
    page.find_element(By.CSS_SELECTOR, "#files").send_keys("\n".join(map(str, paths)))
    wait(page, lambda: "answered" in text(page, "#status") and " of " not in text(page, "#status"))


def console_errors(page: Chrome) -> list[str]:
    """Errors of the page's scripts, and what its security policy stopped."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_images_are_ranked_compared_and_looked_at(page: Chrome, images: list[Path]) -> None:
    drop(page, images)
    page.save_screenshot(str(SHOTS / "ranked.png"))
    assert column(page, ".card .name") == ["bright.png", "grey.png", "dark.png", "broken.png"]
    assert column(page, ".card .score") == ["0.80", "0.50", "0.20", "no score"]
    assert column(page, ".card .rationale")[0] == "soft light"
    assert "not an image" in column(page, ".card .rationale")[3]
    people = column(page, ".card .people")
    assert people[0] == "For 90 % of images scored like this, people's mean score lies between 0.50 and 0.90."
    assert people[3] == ""

    for place, key in ((0, Keys.SPACE), (2, Keys.ENTER)):  # by keyboard alone
        page.execute_script("document.querySelectorAll('.pick')[arguments[0]].focus()", place)
        press(page, key)
    wait(page, lambda: "probability" in text(page, "#odds-text"))
    assert text(page, "#odds-text").startswith("bright.png is preferred with a probability of 9")
    page.save_screenshot(str(SHOTS / "compared.png"))

    page.execute_script("document.querySelector('.view').focus()")
    press(page, Keys.ENTER)
    wait(page, lambda: "84 × 56" in text(page, "#seen-model-size"))
    wait(page, lambda: page.execute_script("return document.getElementById('seen-model').naturalWidth") == 84)
    page.save_screenshot(str(SHOTS / "seen.png"))
    press(page, Keys.ESCAPE)
    wait(page, lambda: not page.execute_script("return document.getElementById('seen').open"))
    assert console_errors(page) == []


def test_another_readout_scores_all_images_again(page: Chrome, images: list[Path]) -> None:
    drop(page, images[:2])
    page.execute_script(
        "const list = document.getElementById('readout'); list.value = 'greedy'; list.dispatchEvent(new Event('change'))"
    )
    wait(page, lambda: column(page, ".card .score") == ["0.80", "0.20"])
    page.find_element(By.CSS_SELECTOR, ".card .remove").click()
    assert column(page, ".card .name") == ["dark.png"]
    page.find_element(By.CSS_SELECTOR, "#clear").click()
    assert column(page, ".card .name") == []
    assert console_errors(page) == []


def test_a_page_elsewhere_gets_nothing(page: Chrome, address: str) -> None:
    request = urllib.request.Request(f"{address}api/model", headers={"Host": "127.0.0.1:1"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
    page.get("about:blank")
    sent = (
        "return fetch(arguments[0], {method: 'POST', body: 'x', mode: 'no-cors'}).then((a) => a.type, (e) => 'refused')"
    )
    assert page.execute_script(sent, f"{address}api/explain") in ("opaque", "refused")
    read = "return fetch(arguments[0]).then((a) => a.status, (e) => 'refused')"
    assert page.execute_script(read, f"{address}api/model") == "refused"
