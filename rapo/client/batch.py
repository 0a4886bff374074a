"""BatchJob: the requests of one ScoreBatch call, and an outcome for each of its images.

- An image that cannot be read has its outcome at once and is not sent.
- An image whose error says when to retry is sent again, and it alone, while the time limit allows.
  It is sent to the version that scored others of the batch, whatever is the default by then.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from time import monotonic

from rapo.client.connection import RetryPolicy
from rapo.client.errors import CallError
from rapo.client.images import check_images, read_image
from rapo.client.messages import outcome, result_or_error, score_request
from rapo.client.types import Image, Outcome, ScoreOptions
from rapo.errors import ImageError
from rapo.v1 import scorer_pb2


class BatchJob:
    """One batch. `limit` is in seconds and begins now, before the images are read.

    `request` is what to send next. It holds no image once every image has its outcome.
    """

    def __init__(self, images: Iterable[Image], options: ScoreOptions, policy: RetryPolicy, limit: float) -> None:
        self._deadline = monotonic() + limit
        check_images(images, "score_batch()")
        self._images = tuple(images)
        self._policy = policy
        self._outcomes: dict[int, Outcome] = {}
        self._tries = 0
        self.request_id = uuid.uuid4().hex
        requests = []
        for index, image in enumerate(self._images):
            try:
                requests.append(score_request(read_image(image), f"{self.request_id}-{index}", **options))
            except ImageError as error:
                self._outcomes[index] = outcome(index, image, error)
        self.request = scorer_pb2.ScoreBatchRequest(requests=requests)

    def left(self) -> float:
        """Seconds that remain of the time limit."""
        return self._deadline - monotonic()

    def take(self, reply: scorer_pb2.ScoreBatchResponse) -> float:
        """Keep the outcomes of `reply` and put what to send again into `request`; the seconds to
        wait before that.

        Nothing is sent again if the pause for one of the images does not fit into the time limit.
        Raises `CallError` if the reply does not fit the request.
        """
        sent = self.request.requests
        if len(reply.results) != len(sent):
            raise CallError(f"the service answered {len(reply.results)} images of {len(sent)}", code="INTERNAL")
        self._tries += 1
        pauses: dict[str, float | None] = {}
        for request, item in zip(sent, reply.results, strict=True):
            index = int(request.request_id.rpartition("-")[2])
            result = result_or_error(item)
            self._outcomes[index] = outcome(index, self._images[index], result)
            if isinstance(result, CallError) and result.retry_delay is not None:
                pauses[request.request_id] = self._policy.pause(result, self._tries, self.left())
        scored = next((item.response.model_version for item in reply.results if item.HasField("response")), "")
        for request in sent:
            request.model_version = request.model_version or scored
        waits = [pause for pause in pauses.values() if pause is not None]
        again = [request for request in sent if request.request_id in pauses] if len(waits) == len(pauses) else []
        self.request = scorer_pb2.ScoreBatchRequest(requests=again)
        return max(waits) if again else 0.0

    def outcomes(self) -> tuple[Outcome, ...]:
        """One for each image, in their order."""
        return tuple(self._outcomes[index] for index in range(len(self._images)))
