"""PolicyProcessor: turns images and text into the policy's inputs, for learner and sampler alike.

- The prompt is tokenised once. Its single image pad is widened to the number of features of each
  image, so that the two counts are equal by construction.
- A prompt is never truncated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig, AutoProcessor
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from rapo.answers.answer_tokens import AnswerTokens, answer_tokens
from rapo.answers.prompts import SCORE_PROMPT, chat
from rapo.errors import ModelError
from rapo.models.folder import check_model_folder


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of one image: `pixels` float32 `(patches, patch_dim)`, `grid` int64 `(3,)`,
    `prompt_ids` int64 `(P,)`."""

    pixels: NDArray[np.float32]
    grid: NDArray[np.int64]
    prompt_ids: NDArray[np.int64]


class PolicyProcessor:
    """Tokenizer, image processor and chat template of a model folder.

    `min_pixels` and `max_pixels` override the folder's limits of an image's area. Raises
    `ModelError` where the folder is missing or holds no Qwen2.5-VL.
    """

    def __init__(self, folder: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> None:
        check_model_folder(folder)
        limits = {k: v for k, v in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if v is not None}
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True, **limits)
        self.tokenizer = self.processor.tokenizer
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        self.image_token_id: int = config.image_token_id
        self._vocabulary: int = config.text_config.vocab_size
        self._merge: int = self.processor.image_processor.merge_size
        self.stop_token_ids: list[int] = [self.tokenizer.eos_token_id]
        self.prompt = self.render(SCORE_PROMPT)
        self.prompt_token_ids = self.tokenize_prompt(self.prompt)

    def render(self, text: str) -> str:
        """The chat template around one image and `text`, up to where the answer begins."""
        return self.processor.apply_chat_template(chat(text), tokenize=False, add_generation_prompt=True)

    def tokenize_prompt(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt with exactly one image pad. Raises `ModelError` where the
        chat template makes another number."""
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if ids.count(self.image_token_id) != 1:
            raise ModelError(
                f"the chat template puts {ids.count(self.image_token_id)} image tokens into the prompt; it must put one. "
                "Check chat_template in the model folder."
            )
        return ids

    @property
    def banned_token_ids(self) -> list[int]:
        """Tokens that no completion may hold: all special tokens but the stop token, and ids that
        have no token.

        A sampled vision token would change the learner's count of image pads. Sampler and learner
        mask the same ids.
        """
        special = set(self.tokenizer.all_special_ids) | {
            i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        special |= set(range(len(self.tokenizer), self._vocabulary))
        return sorted(special - set(self.stop_token_ids))

    @cached_property
    def answer_tokens(self) -> AnswerTokens:
        """The tokens that answers are written with. Raises `ModelError` where the tokenizer does
        not write them digit by digit."""
        return answer_tokens(lambda text: self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def fit(self, image: Image.Image) -> Image.Image:
        """The RGB image at the size at which the model sees it, resized by the image processor.

        `prepare(fit(image))` equals `prepare(image)` to the last bit, so the small image can stand
        for one of many megapixels.
        """
        resizer = self.processor.image_processor
        factor = resizer.patch_size * resizer.merge_size
        low, high = resizer.size["shortest_edge"], resizer.size["longest_edge"]
        if smart_resize(image.height, image.width, factor, low, high) == (image.height, image.width):
            return image
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        size = SizeDict(shortest_edge=low, longest_edge=high)
        fitted = resizer.resize(images=pixels, size=size, resample=resizer.resample, factor=factor)
        return Image.fromarray(fitted[0].permute(1, 2, 0).contiguous().numpy())

    def prepare(self, image: Image.Image) -> Prepared:
        """Pixels, grid and prompt ids for one RGB image."""
        features = self.processor.image_processor(images=[image], return_tensors="np")
        grid = np.asarray(features["image_grid_thw"][0], dtype=np.int64)
        ids = self.widened_prompt(int(grid.prod()))
        return Prepared(np.asarray(features["pixel_values"], dtype=np.float32), grid, np.asarray(ids, dtype=np.int64))

    def widened_prompt(self, patches: int) -> list[int]:
        """The prompt's token ids with a pad for each feature of an image of `patches` patches."""
        at = self.prompt_token_ids.index(self.image_token_id)
        pads = [self.image_token_id] * (patches // self._merge**2)
        return [*self.prompt_token_ids[:at], *pads, *self.prompt_token_ids[at + 1 :]]

    def prompt_length(self, image: Image.Image) -> int:
        """The number of prompt tokens of an image, its features included, without processing its
        pixels."""
        patches = self.processor.image_processor.get_number_of_image_patches(image.height, image.width)
        return len(self.prompt_token_ids) - 1 + patches // self._merge**2

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
