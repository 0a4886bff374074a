"""Which Serve application answers for which model version. Changed by the server, read by the
gateway's thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping


class Routes:
    """Model version -> name of its Serve application, with a default version. Every method is
    atomic.

    `""` stands for the default, as in the API.
    """

    def __init__(self, default: str, applications: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self.replace(default, applications)

    def replace(self, default: str, applications: Mapping[str, str]) -> None:
        """Put another set in place of all. Raises `ValueError` where `default` has no application
        of its own."""
        if default not in applications or "" in applications:
            raise ValueError(f"the default version {default!r} is not among {sorted(applications)}, or one has no name")
        with self._lock:
            self._default = default
            self._applications = dict(applications)

    def resolve(self, version: str) -> str | None:
        """The application that answers for `version`; None where none does."""
        with self._lock:
            return self._applications.get(version or self._default)

    def default(self) -> str:
        with self._lock:
            return self._default

    def versions(self) -> list[str]:
        """All versions, the default first, the others sorted."""
        with self._lock:
            return [self._default, *sorted(self._applications.keys() - {self._default})]
