"""The page of configuration keys: complete and current."""

from __future__ import annotations

from rapo.config import Config
from tools.config_reference import PAGE, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.config_reference"


def test_every_section_and_the_usual_keys_are_there() -> None:
    text = page()
    assert all(f"## {name}\n" in text for name in Config.model_fields)
    for row in (
        "| `data.max_train` | whole number > 0 | unset |",
        '| `policy.dtype` | "float32" or',
        "| `serve.gateway.tokens` | path | unset |",
        "| `image.max_pixels` | whole number > 0 | `50000000` |",
    ):
        assert row in text, row
