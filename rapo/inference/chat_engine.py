"""VllmModel: answers of any vision-language model that vLLM runs with a chat template.

Questions go through vLLM's chat interface, because the model's own template and processor know
where an image belongs in its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from rapo.answers.prompts import chat
from rapo.chat.types import ChatAnswer, Question, Usage
from rapo.config import ChatConfig, ImageConfig
from rapo.errors import ImageError, ModelError
from rapo.images.decode import decode_image
from rapo.images.shrink import shrink
from rapo.models.folder import check_chat_folder
from rapo.util.brief import brief_error
from rapo.util.garbage import collector_off

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

_OPEN = "<think>"


class VllmModel:
    """A vLLM engine on a model's folder. `schema` constrains answers to a JSON schema. Not
    thread-safe: one caller at a time.

    Raises `ModelError` where the folder holds no model, none that vLLM runs with images, or
    parameters that are not finite.
    """

    def __init__(
        self, folder: Path, settings: ChatConfig, limits: ImageConfig, *, schema: Mapping[str, object] | None = None
    ) -> None:
        check_chat_folder(folder)

        with collector_off():
            from vllm import LLM
            from vllm.exceptions import VLLMClientError

        from rapo.inference.engine import engine_arguments, refuse_damaged

        self._settings, self._limits, self._schema = settings, limits, schema
        self._refusals = (VLLMClientError, ValueError)
        try:
            self._llm = LLM(
                **engine_arguments(str(folder), settings.engine, dtype="auto", seed=0),
                disable_log_stats=True,
            )
        except self._refusals as error:
            raise ModelError(f"vLLM cannot run the model in {folder}: {error}") from error
        if not self._llm.model_config.is_multimodal_model:
            raise ModelError(f"{folder} holds no vision-language model: its model takes no images.")
        refuse_damaged(self._llm, str(folder))
        self._tokenizer = self._llm.get_tokenizer()

    def ask(self, questions: Sequence[Question]) -> list[ChatAnswer]:
        """An answer for each question, in order."""
        answers: list[ChatAnswer | None] = []
        for question in questions:
            try:
                self._enqueue(question)
            except ImageError as error:
                answers.append(ChatAnswer(None, str(error), "image"))
            except self._refusals as error:
                # An image that the model refuses must not cost the other images of its batch.
                answers.append(ChatAnswer(None, f"the model refused the image: {brief_error(error)}", "unusable"))
            else:
                answers.append(None)
        outputs = iter([self._read(request) for request in self._llm.wait_for_completion(use_tqdm=False)])
        return [next(outputs) if answer is None else answer for answer in answers]

    def close(self) -> None:
        """The engine ends with its process."""

    def _enqueue(self, question: Question) -> None:
        image = shrink(decode_image(question.image, self._limits), self._settings.max_pixels)
        messages = chat(question.text)
        for message in messages:
            message["content"] = [
                _image_part(image) if part["type"] == "image" else part for part in message["content"]
            ]
        self._llm.enqueue_chat(messages, self._sampling(question.seed), use_tqdm=False)

    def _sampling(self, seed: int) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        return SamplingParams(
            temperature=self._settings.temperature,
            seed=seed,
            max_tokens=self._settings.max_tokens,
            structured_outputs=None if self._schema is None else StructuredOutputsParams(json=dict(self._schema)),
        )

    def _read(self, request: RequestOutput) -> ChatAnswer:
        (output,) = request.outputs
        prompt = request.prompt_token_ids
        return ChatAnswer(
            output.text,
            truncated=output.finish_reason == "length",
            reasoning=self._tokenizer.decode(prompt[-4:]).rstrip().endswith(_OPEN),
            usage=Usage(len(prompt), len(output.token_ids)),
            model=self._settings.model,
        )


def _image_part(image: Image.Image) -> dict[str, object]:
    return {"type": "image_pil", "image_pil": image}
