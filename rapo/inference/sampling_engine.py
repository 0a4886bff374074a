"""SamplingEngine: an engine whose requests are K completions of one image."""

from __future__ import annotations

from rapo.inference.completion_builder import CompletionBuilder
from rapo.inference.engine import Engine, seeded_copies
from rapo.inference.image_inputs import features_of
from rapo.inference.types import Completion, EncodedImage, SamplingSpec


class SamplingEngine(Engine[CompletionBuilder]):
    """An `Engine` that turns a `SamplingSpec` into completions.

    To vLLM each completion is a request of its own; those of one image share the prompt's blocks
    and the image's features.
    """

    def add(self, name: str, image: EncodedImage, sampling: SamplingSpec, seed: int) -> None:
        """Put a request into the continuous batch; `step` returns its completions under `name`.

        Raises `ValueError` for a prompt that leaves no room for an answer; nothing is added then.
        """
        self._check_length(len(image.prompt_ids), answer_tokens=1)
        parameters = self._parameters(sampling, seed)
        features = features_of(image, self.processor.image_token_id)
        for index, own in enumerate(seeded_copies(parameters, sampling.completions)):
            self._core.add(f"{name}/{index}", image.prompt_ids, features, own)
        self._requests[name] = CompletionBuilder(sampling.completions, logprobs=sampling.logprobs)

    def cancel(self, name: str) -> None:
        """Stop a request and free what it holds; `step` returns nothing of it. An unknown name is
        ignored."""
        if (builder := self._requests.pop(name, None)) is not None:
            self._core.cancel(f"{name}/{index}" for index in builder.unfinished)

    def step(self) -> list[tuple[str, list[Completion]]]:
        """Advance every running request by a token; `(name, completions)` of those that ended."""
        finished = []
        for output in self._core.step():
            name, _, index = output.name.rpartition("/")
            builder = self._requests.get(name)
            if builder is not None and builder.add(int(index), output, self.version):
                del self._requests[name]
                finished.append((name, builder.completions()))
        return finished
