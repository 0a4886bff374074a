"""PromptLength: the number of tokens of an image's prompt, from its size and the model folder.

- It equals what the policy's processor makes (`rapo.policy.processing`), and needs no torch: the
  data stage and `rapo check` know before anything is started which images do not fit.
- Of a folder that it cannot read it says nothing: the engine refuses what does not fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rapo.aescot.writer import phrases
from rapo.answers.prompts import chat, without_thinking
from rapo.config import Config
from rapo.errors import ImageError, ModelError
from rapo.families.tiny_prompt import CHAT_TEMPLATE, MERGE, MIN_PIXELS, PATCH, build_tokenizer
from rapo.images.model_view import ModelView

TOO_LONG = "prompt_too_long"


@dataclass(frozen=True, slots=True)
class PromptLength:
    """`text` tokens around the image, and how the model resizes one. A prompt may have `room`
    tokens."""

    text: int
    view: ModelView
    room: int

    def tokens(self, width: int, height: int) -> int:
        """The tokens of the prompt of an image of `width` x `height` pixels."""
        across, down = self.view.size(width, height)
        return self.text + across * down // self.view.factor**2

    @property
    def shortest(self) -> int:
        """The tokens of the prompt of the smallest image."""
        return self.tokens(1, 1)

    @property
    def possible(self) -> bool:
        """Whether the limits agree and leave room for the shortest prompt."""
        return self.view.min_pixels <= self.view.max_pixels and self.shortest <= self.room

    def check(self, width: int, height: int) -> None:
        """Raise `ImageError` (`TOO_LONG`) where the prompt of such an image does not fit."""
        if (tokens := self.tokens(width, height)) > self.room:
            raise ImageError(
                f"the image has {width} x {height} pixels, its prompt {tokens} tokens; beside the answer there is room for "
                f"{self.room}: lower policy.max_pixels, or raise rollout.engine.max_model_len",
                reason=TOO_LONG,
            )


def prompt_length(config: Config) -> PromptLength | None:
    """The prompts of a configuration; None where the model folder does not tell their length."""
    policy = config.policy
    room = config.rollout.engine.max_model_len - policy.max_completion_tokens
    if policy.model == "embedded":
        view = ModelView(MIN_PIXELS, policy.embedded.pixels, PATCH * MERGE)
        tokenizer = build_tokenizer(policy.embedded.vocabulary, list(phrases()))
        prompt = _rendered(CHAT_TEMPLATE)
        text = None if prompt is None else len(tokenizer.encode(prompt).ids) - 1
    else:
        folder = Path(policy.model)
        try:
            view = ModelView.of(folder)
        except ModelError:
            return None
        text = _text_tokens(folder)
    if text is None or not view.resizes:
        return None
    view = replace(
        view, min_pixels=policy.min_pixels or view.min_pixels, max_pixels=policy.max_pixels or view.max_pixels
    )
    return PromptLength(text, view, room)


def _text_tokens(folder: Path) -> int | None:
    from tokenizers import Tokenizer

    template = _template(folder)
    prompt = None if template is None else _rendered(template)
    if prompt is None or not (folder / "tokenizer.json").is_file():
        return None
    try:
        image = json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_token_id"]
        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt, add_special_tokens=False).ids
    except Exception:  # noqa: BLE001 - the library of tokenizers raises its errors as plain exceptions
        return None
    return len(ids) - 1 if ids.count(image) == 1 else None


def _template(folder: Path) -> str | None:
    """The chat template of a folder, from the places that transformers looks into, in its order."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and isinstance(template := found.get("chat_template"), str):
            return template
    return None


def _rendered(template: str) -> str | None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        rendered = environment.from_string(template).render(
            messages=chat(), add_generation_prompt=True, enable_thinking=False
        )
        return without_thinking(rendered)
    except (TemplateError, ValueError):
        return None
