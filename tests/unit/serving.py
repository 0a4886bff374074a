"""Helpers of the gateway's tests: a scripted deployment, gateways in front of it, certificates."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from rapo.config import GatewayConfig
from rapo.v1 import scorer_pb2, scorer_pb2_grpc
from rapo.wire import DETAILS_KEY, REASON_KEY
from services.gateway.routes import Routes
from services.gateway.server import Gateway, GatewaySettings
from services.names import FIELD_KEY


class FakeDeployment(scorer_pb2_grpc.AestheticScorerServicer):
    """Answers as Serve and the deployment would. The score of an image is its bytes as a number:
    b"0.25" -> 0.25. `before` may change a request, or wait.

    Other images: b"bad" is INVALID_ARGUMENT, b"busy" and b"gone" are Serve's own refusals,
    b"slow:0.5" waits 0.3 s, b"held:0.5" waits until `release` is set or the call cancelled,
    b"long:0.5" has a rationale of 30 kB.
    """

    def __init__(self) -> None:
        self.seen: list[scorer_pb2.ScoreRequest] = []
        self.applications: list[str] = []
        self.in_flight = self.most = 0
        self.cancelled = 0
        self.release = threading.Event()
        self.lock = threading.Lock()
        self.before: Callable[[scorer_pb2.ScoreRequest], None] = lambda request: None

    def Score(self, request: scorer_pb2.ScoreRequest, context: grpc.ServicerContext) -> scorer_pb2.ScoreResponse:
        with self.lock:
            self.seen.append(request)
            self.applications.append(dict(context.invocation_metadata())["application"])
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        try:
            self.before(request)
            return self._answer(request, context)
        finally:
            gone = not context.is_active()
            with self.lock:
                self.cancelled += gone
                self.in_flight -= 1

    def Explain(
        self, request: scorer_pb2.ScoreRequest, context: grpc.ServicerContext
    ) -> Iterator[scorer_pb2.ExplainResponse]:
        for word in ("soft ", "light"):
            yield scorer_pb2.ExplainResponse(rationale_delta=word)
        yield scorer_pb2.ExplainResponse(response=self.Score(request, context))

    def GetModel(
        self, request: scorer_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> scorer_pb2.GetModelResponse:
        application = str(dict(context.invocation_metadata())["application"])
        return scorer_pb2.GetModelResponse(model_version=application.replace("app-", "v"))

    def _answer(self, request: scorer_pb2.ScoreRequest, context: grpc.ServicerContext) -> scorer_pb2.ScoreResponse:
        image = request.image
        if image == b"bad":
            context.set_trailing_metadata([(REASON_KEY, "unknown_format"), (FIELD_KEY, "image")])
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not an image")
        if image == b"silent":
            context.set_trailing_metadata([(REASON_KEY, "no_answer")])
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no score")
        if image == b"busy":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Ray says: /srv/ray queue of 10.1.2.3 is full")
        if image == b"gone":
            context.abort(grpc.StatusCode.INTERNAL, 'Traceback: File "/srv/ray/replica.py"')
        kind, _, number = image.rpartition(b":")
        if kind == b"slow":
            time.sleep(0.3)
        if kind == b"held":
            while context.is_active() and not self.release.wait(0.02):
                pass
        return scorer_pb2.ScoreResponse(
            score=float(number),
            std=0.1,
            model_version="v7",
            readout=scorer_pb2.READOUT_EXPECTED,
            request_id=request.request_id,
            rationale="soft light" * (3000 if kind == b"long" else 1),
            timings=scorer_pb2.Timings(decode_ms=1, queue_ms=2, generate_ms=3, completion_tokens=4),
        )


@contextmanager
def upstream_of(servicer: FakeDeployment) -> Iterator[str]:
    """Serve this deployment on loopback; yields the address."""
    server = grpc.server(futures.ThreadPoolExecutor(64))
    scorer_pb2_grpc.add_AestheticScorerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        servicer.release.set()
        server.stop(0).wait(5)


def settings_for(upstream: str, *, max_in_flight: int = 0, **options: object) -> GatewaySettings:
    """Settings of a gateway on loopback; `options` are those of `GatewayConfig`."""
    return GatewaySettings(
        host="127.0.0.1",
        port=0,
        upstreams=(upstream,),
        secret="the-secret",
        routes=Routes("v7", {"v7": "app-7", "v6": "app-6"}),
        max_message_bytes=100_000,
        request_timeout_s=10.0,
        options=GatewayConfig.model_validate({"grace_s": 1.0, **options}),
        max_samples=32,
        max_in_flight=max_in_flight,
    )


@contextmanager
def gateway_on(servicer: FakeDeployment, *, max_in_flight: int = 0, **options: object) -> Iterator[Gateway]:
    with upstream_of(servicer) as upstream:
        settings = settings_for(upstream, max_in_flight=max_in_flight, **options)
        with Gateway(settings) as gateway:
            yield gateway


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def call_lines() -> Iterator[list[str]]:
    """The lines that the gateway's log of calls gets inside the block."""
    handler = _Messages()
    logger = logging.getLogger("rapo.calls")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def details_of(error: grpc.RpcError) -> dict[str, Message]:
    """The google.rpc details of a failed call, by the name of their type."""
    data = dict(error.trailing_metadata()).get(DETAILS_KEY)
    return {} if data is None else unpacked(status_pb2.Status.FromString(data))


def unpacked(status: status_pb2.Status) -> dict[str, Message]:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    found = {}
    for detail in status.details:
        kind = next(kind for kind in kinds if detail.Is(kind.DESCRIPTOR))
        found[kind.__name__] = message = kind()
        detail.Unpack(message)
    return found


def until(true: Callable[[], bool], limit_s: float = 5.0) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + limit_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


class Authority:
    """A CA in memory that writes certificates for 127.0.0.1 into files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._sign(self._name, self._key, ca=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of `name`, as files that replace those of the same name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        paths[0].write_bytes(self._sign(subject, key, ca=False))
        return paths

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
