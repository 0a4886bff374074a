"""FakeServe: Ray Serve's gRPC proxy in this process, with scripted applications behind it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from google.protobuf.message import Message
from ray.serve.generated import serve_pb2, serve_pb2_grpc
from serving import FakeDeployment

from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from services.names import SECRET_KEY


class FakeServe(FakeDeployment, serve_pb2_grpc.RayServeAPIServiceServicer):
    """Applications with their versions; an application with the version "" does not answer. Calls
    without `secret` are refused, as the replicas do."""

    def __init__(self, secret: str, **applications: str) -> None:
        super().__init__()
        self.secret = secret
        self.served = dict(applications)
        self.calls = 0

    def ListApplications(self, request: Message, context: grpc.ServicerContext) -> Message:
        # The module is generated, and has no types that could be imported.
        return vars(serve_pb2)["ListApplicationsResponse"](application_names=list(self.served))

    def GetModel(
        self, request: scorer_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> scorer_pb2.GetModelResponse:
        application = self._application(context)
        return scorer_pb2.GetModelResponse(model_version=self.served[application])

    def Score(self, request: scorer_pb2.ScoreRequest, context: grpc.ServicerContext) -> scorer_pb2.ScoreResponse:
        version = self.served[self._application(context)]
        self.calls += 1
        response = super().Score(request, context)
        response.model_version = version
        return response

    def _application(self, context: grpc.ServicerContext) -> str:
        metadata = dict(context.invocation_metadata())
        if metadata.get(SECRET_KEY) != self.secret:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "calls must come through the gateway")
        application = metadata["application"]
        if not self.served.get(application):
            context.abort(grpc.StatusCode.UNAVAILABLE, "no replica")
        return application


@contextmanager
def proxy_of(served: FakeServe, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve it on loopback; yields the address. Leaving ends all calls at once."""
    server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
    scorer_pb2_grpc.add_AestheticScorerServicer_to_server(served, server)
    serve_pb2_grpc.add_RayServeAPIServiceServicer_to_server(served, server)
    bound = server.add_insecure_port(f"{host}:{port}")
    server.start()
    try:
        yield f"{host}:{bound}"
    finally:
        served.release.set()
        server.stop(0).wait(5)
