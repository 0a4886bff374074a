"""EndpointModel: asks a vision-language model behind an OpenAI-compatible endpoint.

- Requests run on an event loop of their own thread, so that several threads may ask at once; rates,
  concurrency and budget hold over all of them.
- Every request and every question has a time limit, and every retry a pause.
- The key comes from the environment, and is in no text that leaves this module.
- Once the endpoint can answer nothing more (no key, no model, no budget, too many failures in a
  row), nothing more is sent, and each question left gets the reason.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic

import httpx2
from cachetools import LRUCache
from openai import AsyncOpenAI, OpenAIError

from rapo.chat.completion import ChatCompletion, answer_of, request_body
from rapo.chat.failures import Failure, UnreadableAnswer, failure_of, pause_after
from rapo.chat.key import NO_KEY, hide_key, read_key
from rapo.chat.pace import Pace
from rapo.chat.spending import BudgetSpent, Reservation, Spending
from rapo.chat.types import ChatAnswer, Question, Usage
from rapo.config import AskedModelConfig, ImageConfig
from rapo.errors import ImageError
from rapo.images.decode import decode_image
from rapo.images.shrink import data_url

# What an image may cost in tokens before the endpoint has told what it does.
_IMAGE_TOKENS = 1500
_CHARACTERS_PER_TOKEN = 3
#: How long requests in flight may take to be given up.
_CANCEL_S = 30.0


class EndpointModel:
    """A model behind an endpoint. `schema` constrains its answers to a JSON schema; `spent` is what
    earlier processes of the same run have spent; `patience_s` limits the time of each call.

    Raises `ConfigError` where the variable of the key is not set. Thread-safe.
    """

    def __init__(
        self,
        settings: AskedModelConfig,
        limits: ImageConfig,
        *,
        patience_s: float,
        schema: Mapping[str, object] | None = None,
        spent: float = 0.0,
    ) -> None:
        endpoint = settings.endpoint
        self._settings, self._limits, self._schema = settings, limits, schema
        self._key = read_key(endpoint.key_env)
        self._patience_s = patience_s
        self._spending = Spending(endpoint.prompt_price, endpoint.completion_price, endpoint.budget, spent)
        self._requests, self._tokens = Pace(endpoint.requests_per_minute), Pace(endpoint.tokens_per_minute)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        # Questions about one image come one after the other.
        self._urls: LRUCache[bytes, asyncio.Task[str]] = LRUCache(endpoint.concurrency)
        self._not_before = 0.0
        self._most_prompt_tokens = 0
        self._failures_in_a_row = 0
        self._stopped: str | None = None
        # Retries are this module's: the client's own know neither rates nor budget.
        self._client = AsyncOpenAI(
            api_key=self._key or NO_KEY, base_url=endpoint.base_url, timeout=endpoint.request_timeout_s, max_retries=0
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    @property
    def used(self) -> Usage:
        """What all requests so far have used."""
        return self._spending.used

    @property
    def stopped(self) -> str | None:
        """Why nothing more is asked; None while it is."""
        return self._stopped

    def ask(self, questions: Sequence[Question]) -> list[ChatAnswer]:
        """An answer for each question, in order. After `patience_s` those that are left get
        none."""
        asked = asyncio.run_coroutine_threadsafe(self._ask_all(questions), self._loop)
        return asked.result(self._patience_s + _CANCEL_S)

    def close(self) -> None:
        """Close the connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    async def _ask_all(self, questions: Sequence[Question]) -> list[ChatAnswer]:
        tasks = [asyncio.create_task(self._ask(question)) for question in questions]
        if not tasks:
            return []
        _, late = await asyncio.wait(tasks, timeout=self._patience_s)
        for task in late:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [self._in_time(answer) for answer in answers]

    def _in_time(self, answer: ChatAnswer | BaseException) -> ChatAnswer:
        if isinstance(answer, asyncio.CancelledError):
            return ChatAnswer(None, f"no answer within {self._patience_s:g} s for all questions together", "unanswered")
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _ask(self, question: Question) -> ChatAnswer:
        async with self._slots:
            if self._stopped is not None:
                return ChatAnswer(None, self._stopped, "stopped")
            try:
                url = await self._url(question.image)
            except ImageError as error:
                return ChatAnswer(None, str(error), "image")
            answer = await self._try(question, url)
        self._note(answer)
        return answer

    async def _url(self, image: bytes) -> str:
        """The data URL of an encoded image, made once for the questions in flight about it. Raises
        `ImageError` where it does not decode."""
        making = self._urls.get(image)
        if making is None:
            # In a thread, because decoding would hold up the other requests.
            making = asyncio.create_task(asyncio.to_thread(self._data_url, image))
            self._urls[image] = making
        return await asyncio.shield(making)

    async def _try(self, question: Question, url: str) -> ChatAnswer:
        """Ask until there is an answer, or no try is left."""
        endpoint = self._settings.endpoint
        body = request_body(self._settings, question.text, url, question.seed, self._schema)
        left_s, usage, tries = endpoint.item_timeout_s, Usage(), 0
        while True:
            tries += 1
            if self._stopped is not None:
                return ChatAnswer(None, self._stopped, "stopped", usage=usage)
            try:
                async with self._spending.reserve(self._prompt_estimate(question), self._settings.max_tokens) as held:
                    await self._turn(held.most)
                    if self._stopped is not None:
                        continue
                    began = monotonic()
                    result = await self._request(body, held, min(endpoint.request_timeout_s, left_s))
            except BudgetSpent as error:
                self._stopped = str(error)
                continue
            usage += held.used
            left_s -= monotonic() - began
            if isinstance(result, ChatAnswer):
                return replace(result, usage=usage)
            if result.action == "refused":
                return ChatAnswer(None, result.problem, "unusable", usage=usage)
            if result.action == "stop":
                self._stopped = result.problem
                continue
            if result.wait_s is not None:
                if result.wait_s >= endpoint.item_timeout_s:
                    wish = f"the endpoint asks to wait {result.wait_s:.0f} s, longer than endpoint.item_timeout_s"
                    self._stopped = f"{wish} ({result.problem})"
                    continue
                # All requests wait, or each of them would be told the same.
                self._not_before = max(self._not_before, monotonic() + result.wait_s)
            pause = pause_after(tries, result.wait_s, random.random())
            if tries > endpoint.retries or pause >= left_s:
                why = (
                    f"endpoint.retries = {endpoint.retries}" if tries > endpoint.retries else "endpoint.item_timeout_s"
                )
                return ChatAnswer(
                    None, f"{result.problem}; given up by {why} after {tries} tries", "unanswered", usage=usage
                )
            left_s -= pause
            await asyncio.sleep(pause)

    async def _turn(self, most: Usage) -> None:
        """Wait until the rates, and the endpoint's own wishes, allow a request."""
        delay = max(self._requests.take(), self._tokens.take(most.prompt_tokens + most.completion_tokens))
        await asyncio.sleep(delay)
        while (left := self._not_before - monotonic()) > 0:
            await asyncio.sleep(left * (1 + 0.1 * random.random()))

    async def _request(self, body: dict[str, object], held: Reservation, limit_s: float) -> ChatAnswer | Failure:
        """One request: its answer, or what its failure means."""
        try:
            # The client's own limit is one of silence, and a server that trickles would never reach
            # it.
            async with asyncio.timeout(limit_s):
                response = await self._client.post("/chat/completions", body=body, cast_to=str)
            answer = self._read(response, held)
        except asyncio.CancelledError:
            held.used = held.most
            raise
        except (OpenAIError, httpx2.HTTPError, OSError, ValueError) as error:
            failure = failure_of(error)
            held.used = held.most if failure.billed else Usage()
            failure = Failure(failure.action, hide_key(failure.problem, self._key), failure.billed, failure.wait_s)
            self._tokens.give_back(_tokens(held.most) - _tokens(held.used))
            return failure
        self._tokens.give_back(_tokens(held.most) - _tokens(held.used))
        return answer

    def _read(self, response: str, held: Reservation) -> ChatAnswer:
        try:
            completion = ChatCompletion.model_validate_json(response)
        except ValueError as error:
            raise UnreadableAnswer(response) from error
        counts = completion.usage
        if counts is None:
            held.used = held.most
        else:
            held.used = self._spending.usage(counts.prompt_tokens, counts.completion_tokens)
            self._most_prompt_tokens = max(self._most_prompt_tokens, counts.prompt_tokens)
        return answer_of(completion, held.used)

    def _prompt_estimate(self, question: Question) -> int:
        """The prompt's tokens, at most: as many as any prompt had so far."""
        return self._most_prompt_tokens or len(question.text) // _CHARACTERS_PER_TOKEN + _IMAGE_TOKENS

    def _note(self, answer: ChatAnswer) -> None:
        """Count failures in a row; too many of them end the asking."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if answer.text is None else 0
        most = self._settings.endpoint.max_failures
        if self._failures_in_a_row >= most and self._stopped is None:
            self._stopped = f"{most} images in a row got no answer (endpoint.max_failures); the last: {answer.problem}"

    def _data_url(self, data: bytes) -> str:
        settings = self._settings
        return data_url(decode_image(data, self._limits), settings.max_pixels, settings.endpoint.max_image_bytes)


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens
