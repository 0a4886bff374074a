"""RankCalls: the body of Rank, which orders images and compares each with each."""

from __future__ import annotations

import math

from rapo.algorithm.preference import order, preference_matrix
from rapo.v1 import scorer_pb2
from services.gateway.bulk import BulkCalls, ImageOutcome
from services.gateway.rpc import Call
from services.gateway.upstream import Upstream
from services.names import request_id_or_new
from services.statuses import Refusal


class RankCalls:
    """Scores all images of a call by one model version, also during a roll-out, and compares
    them."""

    def __init__(self, upstream: Upstream, bulk: BulkCalls, gamma: float) -> None:
        self._upstream = upstream
        self._bulk = bulk
        self._gamma = gamma

    async def rank(self, call: Call, message: bytes) -> bytes:
        """The body of Rank."""
        request = call.parse(scorer_pb2.RankRequest, message)
        call.id = request_id_or_new(request.request_id)
        self._bulk.admit(call, len(request.images), "images", least=2)
        application = self._upstream.application(request.model_version)
        images = [
            scorer_pb2.ScoreRequest(
                image=image,
                readout=request.readout,
                model_version=request.model_version,
                request_id=f"{call.id[:120]}.{place}",
            )
            for place, image in enumerate(request.images)
        ]
        outcomes = await self._bulk.outcomes(call, images, application)
        return ranking_of(outcomes, self._gamma, call.id).SerializeToString()


def ranking_of(outcomes: list[ImageOutcome], gamma: float, request_id: str) -> scorer_pb2.RankResponse:
    """The response to outcomes in the order of the request's images. The variance of a readout
    without a deviation counts as 0."""
    scores = [math.nan if isinstance(outcome, Refusal) else outcome.score for outcome in outcomes]
    variances = [0.0 if isinstance(outcome, Refusal) else outcome.std**2 for outcome in outcomes]
    reply = scorer_pb2.RankResponse(preference=preference_matrix(scores, variances, gamma), request_id=request_id)
    for place in order(scores):
        outcome = outcomes[place]
        if isinstance(outcome, Refusal):
            reply.ranking.add(index=place, error=outcome.status())
        else:
            reply.ranking.add(index=place, response=outcome)
            reply.model_version, reply.readout = outcome.model_version, outcome.readout
    return reply
