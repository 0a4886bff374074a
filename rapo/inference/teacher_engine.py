"""TeacherEngine: critiques from any vision-language model that vLLM runs with a chat template.

- Every prompt differs, because each holds its image's private score, and the answer is text.
- Requests go through vLLM's chat interface, because the model's own template and processor know
  where an image belongs in its prompt.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from rapo.answers.prompts import TEACHER_PROMPT, chat
from rapo.config import TeacherConfig
from rapo.errors import ModelError
from rapo.models.weight_files import INDEX, SINGLE, stored_tensors

if TYPE_CHECKING:
    from vllm import RequestOutput

# A full stop that belongs to a usual abbreviation, a number or a name ends no sentence.
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)[.!?…]+[\"'”’)\]*_]*(?=\s|$)|[。！？]+[”’」』）]*",
)
_TAG = re.compile(r"</?(?:think|answer)>")
_OPEN, _CLOSE = "<think>", "</think>"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


@dataclass(frozen=True, slots=True)
class WrittenCritique:
    """The `text` of a critique, or None and the `problem` with the answer."""

    text: str | None
    problem: str | None


def teacher_prompt(score: float, words: int) -> str:
    """The prompt for an image of `score` in [0, 1] and a critique of at most `words` words."""
    return TEACHER_PROMPT.format(score=score, words=words)


def to_last_sentence(text: str) -> str:
    """`text` up to the end of its last full sentence; empty where it holds none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def read_answer(text: str, *, truncated: bool, reasoning: bool = False) -> WrittenCritique:
    """The critique in a teacher's answer, on one line.

    `truncated`: the token limit ended the answer. `reasoning`: the prompt itself opened a
    `<think>`, as the templates of reasoning models do. The reasoning before `</think>` may name the
    score and is left out.
    """
    _, closed, rest = text.rpartition(_CLOSE)
    if not closed and (reasoning or _OPEN in rest):
        return WrittenCritique(None, _too_short("inside the teacher's own reasoning", text))
    answer = " ".join(rest.split())
    if tag := _TAG.search(answer):
        return WrittenCritique(
            None, f"the critique holds the tag {tag[0]}, which marks the policy's own answer: {_head(answer)}"
        )
    if not answer:
        return WrittenCritique(None, "the teacher wrote nothing")
    if not truncated:
        return WrittenCritique(answer, None)
    if sentences := to_last_sentence(answer):
        return WrittenCritique(sentences, None)
    return WrittenCritique(None, _too_short("before its first full sentence was complete", answer))


def shrink(image: Image.Image, max_pixels: int) -> Image.Image:
    """`image`, or a smaller copy of the same proportions with at most `max_pixels` pixels."""
    if image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def check_teacher_folder(folder: str | Path) -> None:
    """Raise `ModelError` unless the folder looks like a model in the transformers format, of any
    architecture."""
    path, key = Path(folder), "aescot.teacher.model takes a local folder with a vision-language model"
    if not path.is_dir():
        raise ModelError(f"teacher folder not found: {folder}. {key}.")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no config.json. {key} in the transformers format.") from error
    except ValueError as error:
        raise ModelError(f"{path / 'config.json'} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not config.get("architectures"):
        raise ModelError(f"{path / 'config.json'} names no architecture. {key}.")
    if not any(found for pattern in _WEIGHTS for found in path.glob(pattern)):
        raise ModelError(f"{folder} holds no weights ({', '.join(_WEIGHTS)}).")
    if (path / SINGLE).is_file() or (path / INDEX).is_file():
        stored_tensors(path)


class TeacherEngine:
    """A vLLM engine on the teacher's folder. Not thread-safe: one caller at a time.

    Raises `ModelError` where the folder holds no model, or none that vLLM runs with images.
    """

    def __init__(self, settings: TeacherConfig) -> None:
        folder = settings.model or ""
        check_teacher_folder(folder)

        from vllm import LLM
        from vllm.exceptions import VLLMClientError

        from rapo.inference.engine import engine_arguments

        self._settings = settings
        self._refusals = (VLLMClientError, ValueError)
        try:
            self._llm = LLM(
                **engine_arguments(folder, settings.engine, dtype="auto", seed=0, worker_extension=False),
                disable_log_stats=True,
            )
        except self._refusals as error:
            raise ModelError(f"vLLM cannot run the teacher in {folder}: {error}") from error
        if not self._llm.model_config.is_multimodal_model:
            raise ModelError(f"{folder} holds no vision-language model; aescot.teacher.model must take images.")
        self._tokenizer = self._llm.get_tokenizer()

    def write(
        self, images: Sequence[Image.Image], scores: Sequence[float], seeds: Sequence[int]
    ) -> list[WrittenCritique]:
        """A critique or a problem for each RGB image, in order. `scores` are in [0, 1]; each image
        is sampled with its own seed."""
        results: list[WrittenCritique | None] = []
        for image, score, seed in zip(images, scores, seeds, strict=True):
            try:
                self._enqueue(shrink(image, self._settings.max_pixels), score, seed)
            except self._refusals as error:
                # An image that the model refuses must not cost the other images of its batch.
                results.append(WrittenCritique(None, f"the teacher refused the image: {error}"))
            else:
                results.append(None)
        answers = iter([self._read(request) for request in self._llm.wait_for_completion(use_tqdm=False)])
        return [next(answers) if result is None else result for result in results]

    def _enqueue(self, image: Image.Image, score: float, seed: int) -> None:
        from vllm import SamplingParams

        messages = chat(teacher_prompt(score, self._settings.words))
        for message in messages:
            message["content"] = [
                {"type": "image_pil", "image_pil": image} if part["type"] == "image" else part
                for part in message["content"]
            ]
        parameters = SamplingParams(
            temperature=self._settings.temperature, seed=seed, max_tokens=self._settings.max_tokens
        )
        self._llm.enqueue_chat(messages, parameters, use_tqdm=False)

    def _read(self, request: RequestOutput) -> WrittenCritique:
        (output,) = request.outputs
        prompt_end = self._tokenizer.decode(request.prompt_token_ids[-4:]).rstrip()
        return read_answer(
            output.text, truncated=output.finish_reason == "length", reasoning=prompt_end.endswith(_OPEN)
        )


def _too_short(where: str, text: str) -> str:
    return f"the answer ended {where}; raise aescot.teacher.max_tokens (or engine.max_model_len): {_head(text)}"


def _head(text: str) -> str:
    return repr(text[:60])
