"""Configuration section `serve`: the scorer, its replicas, and the gateway in front of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rapo.answers.readout_names import ReadoutName
from rapo.config.types import Amount, NodeLabels, Positive, Seconds, Section


class AutoscaleConfig(Section):
    """Replicas between `min_replicas` and `max_replicas`, by the requests in flight. Off where both
    are the same."""

    min_replicas: Positive = 1
    max_replicas: Positive = 1
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 16.0
    upscale_delay_s: Seconds = Field(10.0, description="how long there are too few before one is started")
    downscale_delay_s: Seconds = Field(600.0, description="how long there are too many before one is stopped")

    @model_validator(mode="after")
    def _ascending(self) -> AutoscaleConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        return self


class GatewayConfig(Section):
    """Access to the scorer and its limits. Without a certificate and tokens (or a client CA) it is
    open on loopback only."""

    certificate: Path | None = Field(None, description="PEM chain of the server; with `key` the server uses TLS")
    key: Path | None = Field(None, description="PEM private key of `certificate`")
    client_ca: Path | None = Field(
        None, description="PEM of the CA of client certificates, which are then required (mTLS)"
    )
    tokens: Path | None = Field(None, description="file of `client = sha256 of its token`; read again when it changes")
    health_without_token: bool = Field(False, description="grpc.health.v1 answers calls without a token")
    reflection: bool = False
    max_calls: Positive = Field(2048, description="calls in flight, of all clients together")
    max_batch: Positive = Field(64, description="images of one ScoreBatch or Rank")
    max_stream_in_flight: Positive = Field(32, description="images in flight in one ScoreStream")
    receive_s: Seconds = Field(20.0, description="how long the message of a call may take to come whole")
    stream_idle_s: Seconds = Field(300.0, description="how long a stream may be silent before it is ended")
    rate: Amount = Field(0.0, description="images per second and client; 0: no limit")
    burst: Positive = Field(256, description="images that a client may send at once on top of `rate`")
    grace_s: Seconds = Field(20.0, description="how long calls in flight may take to finish when the server stops")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="port of Prometheus metrics over HTTP, and of /livez and /readyz; default: none"
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address of `metrics_port`; another than loopback is open to all"
    )
    tls_at: Literal["gateway", "mesh"] = Field(
        "gateway",
        description="mesh: a proxy before the gateway ends TLS, so that it may listen on a network without a certificate",
    )
    default_version: str | None = Field(
        None, description="for `rapo gateway`: the version of calls that name none; default: the only one served"
    )
    otlp: Annotated[str, Field(pattern=r"^https?://(\[[0-9a-fA-F:.]+\]|[^/\s:\[\]]+):\d+$")] | None = Field(
        None,
        description="collector of OpenTelemetry traces by OTLP/gRPC, as http://127.0.0.1:4317; default: no traces",
    )
    trace_share: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of calls that are traced, where the client does not decide it"
    )


class ServeConfig(Section):
    """The gRPC scorer (docs/serving.md)."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    readout: ReadoutName = Field("expected", description="of calls that name no readout")
    force_answer: bool = Field(
        True,
        description="`expected` closes a rationale that ran off its form or its limit, and reads the answer after it",
    )
    samples: Annotated[int, Field(ge=2)] = Field(8, description="of the readout `sampled`")
    max_samples: Annotated[int, Field(ge=2)] = 32
    cache_mib: Annotated[int, Field(ge=0)] = Field(
        0, description="cache of answers by image content and version; 0: no cache"
    )
    replicas: Positive = 1
    autoscale: AutoscaleConfig | None = Field(None, description="instead of a fixed number of `replicas`")
    cpus: Amount = 1.0
    gpus: Amount = 0.0
    labels: NodeLabels = Field({}, description="Ray labels that a replica's node must have")
    threads: Positive = 1
    max_ongoing_requests: Positive = Field(64, description="images in the engine at once, per replica")
    max_queued_requests: Positive = Field(128, description="images that wait, per replica; more are refused")
    request_timeout_s: Seconds = 60.0
    start_timeout_s: Seconds = 300.0
    demo_images: Annotated[int, Field(ge=0)] = Field(
        24, description="test images scored over gRPC at the end of a run; 0: none"
    )
    gateway: GatewayConfig = GatewayConfig()
    ui_port: Annotated[int, Field(ge=0, le=65535)] = Field(8501, description="port of the web page, on loopback")

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas of one version."""
        return self.replicas if self.autoscale is None else self.autoscale.max_replicas

    @property
    def most_in_flight(self) -> int:
        """How many images the replicas of one version work on and queue at most."""
        return self.most_replicas * (self.max_ongoing_requests + self.max_queued_requests)

    @model_validator(mode="after")
    def _samples_allowed(self) -> ServeConfig:
        if self.samples > self.max_samples:
            raise ValueError(f"serve.samples {self.samples} is more than serve.max_samples {self.max_samples}")
        return self
