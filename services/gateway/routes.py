"""Routes: the Serve application of each model version. The server changes it, the gateway's thread
reads it."""

from __future__ import annotations

import threading
from collections.abc import Mapping


class Routes:
    """Model version -> name of its Serve application, with a default version. Every method is
    atomic.

    `""` means the default, as in the API. Without a default (None) every call names its version.
    """

    def __init__(self, default: str | None = None, applications: Mapping[str, str] | None = None) -> None:
        self._lock = threading.Lock()
        self.replace(default, applications or {})

    def replace(self, default: str | None, applications: Mapping[str, str]) -> None:
        """Replace the whole table. Raises `ValueError` if `default` has no application of its
        own."""
        if (default is not None and default not in applications) or "" in applications:
            raise ValueError(f"the default version {default!r} is not among {sorted(applications)}, or one has no name")
        with self._lock:
            self._default = default
            self._applications = dict(applications)

    @property
    def default(self) -> str | None:
        """The version that answers calls which name none."""
        with self._lock:
            return self._default

    def applications(self) -> dict[str, str]:
        """A copy of the table."""
        with self._lock:
            return dict(self._applications)

    def resolve(self, version: str) -> str | None:
        """The application that answers for `version`; None if there is none."""
        with self._lock:
            return self._applications.get(version or self._default or "")

    def versions(self) -> list[str]:
        """All versions, the default first, the others sorted."""
        with self._lock:
            return sorted(self._applications, key=lambda version: (version != self._default, version))
