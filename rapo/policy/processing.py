"""PolicyProcessor: turns images and text into the policy's inputs, for learner and sampler alike.

- There is one prompt. What an image adds to it is the family's (`rapo.families`).
- A prompt is never truncated.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor

from rapo.answers.answer_tokens import AnswerTokens, answer_tokens
from rapo.answers.parse import TAGS
from rapo.answers.prompts import SCORE_PROMPT, ChatMessage, chat, without_thinking
from rapo.errors import ModelError
from rapo.families.inputs import Prepared
from rapo.families.registry import family_of, image_token
from rapo.models.completeness import read_config
from rapo.models.folder import check_model_folder

# Stands for any answer.
_ANSWER = "a4b7c2"


class PolicyProcessor:
    """Tokenizer, image processor and chat template of a model folder.

    `min_pixels` and `max_pixels` override the folder's limits of an image's area. Raises
    `ModelError` where the folder is missing or holds no model that rapo trains.
    """

    def __init__(self, folder: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> None:
        check_model_folder(folder)
        limits = {k: v for k, v in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if v is not None}
        config = read_config(folder)
        self.family = family_of(config)
        if limits and not self.family.limits_pixels:
            raise ModelError(
                f"policy.{' and policy.'.join(limits)}: the image processor of a {config.model_type!r} has no limit of an "
                "image's area. Leave the key out, and set the sizes in the model's preprocessor_config.json."
            )
        try:
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True, **limits)
        except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"transformers cannot make the processor in {folder}: {error}") from error
        self.tokenizer = self.processor.tokenizer
        self.image_token_id = image_token(config)
        # Some tokenizers do not mark them as special.
        videos = (getattr(config, name, None) for name in ("video_token_id", "video_token_index"))
        self._vision_ids = {self.image_token_id, *(token for token in videos if isinstance(token, int))}
        self._vocabulary: int = config.get_text_config().vocab_size
        self.stop_token_ids = [self._stop_token()]
        self.prompt = self.render(SCORE_PROMPT)
        #: The prompt before its image is known.
        self.prompt_token_ids: list[int] = self.tokenizer(self.prompt, add_special_tokens=False)["input_ids"]
        self.prepare(Image.new("RGB", (56, 56)))  # what the chat template does not fit is known now

    def render(self, text: str) -> str:
        """The chat template around one image and `text`, up to where the answer begins. Thinking is
        switched off where the template has a switch (`rapo.answers.prompts.without_thinking`).

        Raises `ModelError` where the template does not write `text`.
        """
        switch = {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}
        try:
            prompt = self.processor.apply_chat_template(
                chat(text), tokenize=False, add_generation_prompt=True, **switch
            )
            return without_thinking(prompt, text)
        except (TemplateError, ValueError) as error:
            raise ModelError(f"the chat template of this model cannot be used: {error}") from error

    def _stop_token(self) -> int:
        """The token that ends an answer: the special token that the chat template writes behind
        one, or else the tokenizer's own. Raises `ModelError` where there is none."""
        answer: list[ChatMessage] = [{"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}]
        try:
            behind = self.processor.apply_chat_template([*chat(), *answer], tokenize=False).rpartition(_ANSWER)[2]
        except TemplateError:  # a template that takes no answer
            behind = ""
        ids = self.tokenizer(behind, add_special_tokens=False)["input_ids"]
        found = [token for token in ids if token in self._special_ids]
        token: int | None = found[0] if found else self.tokenizer.eos_token_id
        if token is None:
            raise ModelError(
                "neither the chat template nor the tokenizer of this model names a token that ends an answer"
            )
        return token

    @cached_property
    def _special_ids(self) -> set[int]:
        """All special tokens, without the tags of an answer."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = set(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}
        return special - {i for i, token in added if token.content in TAGS}

    @property
    def banned_token_ids(self) -> list[int]:
        """Tokens that no completion may hold: all special tokens but the stop token, those of
        images and videos, and ids that have no token.

        A sampled vision token would change the learner's count of image tokens. Sampler and learner
        mask the same ids.
        """
        special = self._special_ids | self._vision_ids | set(range(len(self.tokenizer), self._vocabulary))
        return sorted(special - set(self.stop_token_ids))

    @cached_property
    def pixel_levels(self) -> NDArray[np.float32] | None:
        """The family's `pixel_levels`."""
        return self.family.pixel_levels(self)

    @cached_property
    def answer_tokens(self) -> AnswerTokens:
        """The tokens that answers are written with. Raises `ModelError` where the tokenizer
        writes them in another way than `rapo.answers.answer_tokens` knows."""
        return answer_tokens(lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prepare(self, image: Image.Image) -> Prepared:
        """What the learner takes for one RGB image."""
        return self.family.prepare(self, np.array(image))

    def encode_completion(self, text: str) -> NDArray[np.int64]:
        """Token ids `(tokens,)` of a training target, with the stop token at the end."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray([*ids, *self.stop_token_ids[:1]], dtype=np.int64)

    def decode(self, token_ids: NDArray[np.integer]) -> str:
        """The text of a completion, without its stop token."""
        ids = token_ids.tolist()
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write tokenizer, image processor and chat template to `folder`."""
        self.processor.save_pretrained(folder)
