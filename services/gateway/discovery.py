"""Discovery: finds the model versions that a Serve of its own cluster runs, for a gateway that did
not start them.

- Serve's proxies name their applications, and each application names its version itself. So several
  gateways agree without knowing of each other.
- An application that does not answer keeps its version while Serve names it.
- If no proxy answers, nothing changes.
- Of two applications with one version, the one that had it keeps it.
"""

from __future__ import annotations

import logging
from time import monotonic

import grpc

from services.gateway.upstream import Upstream
from services.statuses import Refused

_LIMIT_S = 5.0

logger = logging.getLogger(__name__)


class Discovery:
    """Keeps `upstream.routes`. `default` is the version for calls that name none; without it that
    is the only version, or none where several are served."""

    def __init__(self, upstream: Upstream, default: str | None) -> None:
        # Not at the top: it imports Ray, which a gateway beside its own Serve has already.
        from ray.serve.generated import serve_pb2
        from ray.serve.generated.serve_pb2_grpc import RayServeAPIServiceStub

        self._upstream = upstream
        self._default = default
        # The module is generated, and has no types that could be imported.
        self._request = vars(serve_pb2)["ListApplicationsRequest"]()
        self._stub = RayServeAPIServiceStub
        #: Version by application.
        self._versions: dict[str, str] = {}

    async def refresh(self) -> None:
        """Ask once, and change the routes where the answer differs."""
        try:
            listed = await self._stub(self._upstream.proxies.channel()).ListApplications(
                self._request, timeout=_LIMIT_S
            )
        except grpc.aio.AioRpcError as error:
            logger.warning("Serve does not name its applications: %s", error.code().name)
            return
        known = {name: self._versions[name] for name in listed.application_names if name in self._versions}
        for name in sorted(listed.application_names):
            version = await self._ask(name)
            if version:
                known[name] = version
        self._versions = known
        self._route()

    async def _ask(self, application: str) -> str | None:
        """The version of an application; None where it does not answer, or is no scorer."""
        try:
            return (await self._upstream.describe(application, monotonic() + _LIMIT_S)).model_version
        except Refused as error:
            logger.debug("application %s: %s", application, error.refusal.words)
            return None

    def _route(self) -> None:
        routes = self._upstream.routes
        applications: dict[str, str] = {}
        for name in sorted(self._versions, key=lambda name: routes.resolve(self._versions[name]) != name):
            applications.setdefault(self._versions[name], name)
        default = self._default if self._default in applications else None
        if self._default is None and len(applications) == 1:
            (default,) = applications
        if applications != routes.applications() or default != routes.default:
            routes.replace(default, applications)
            logger.info("versions served: %s; default: %s", ", ".join(sorted(applications)) or "none", default)
