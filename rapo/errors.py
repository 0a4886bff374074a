"""Errors: the errors that a user can act on.

- Every message names the input at fault and says what to do about it.
- The command line prints a `RapoError` without a traceback and exits with code 2. Any other error
  is a defect of rapo and keeps its traceback.
"""

from __future__ import annotations


class RapoError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(RapoError):
    """The configuration file is missing, unreadable, or holds a wrong key or value."""


class DataError(RapoError):
    """The data set is missing, empty, or holds values outside the declared range."""


class ImageError(RapoError):
    """One image is not usable. `reason` is a short stable word for counting."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return _image_error, (str(self), self.reason)


def _image_error(message: str, reason: str) -> ImageError:
    return ImageError(message, reason=reason)


class ModelError(RapoError):
    """A model folder is missing, incomplete, or not of a supported kind."""


class RunFolderError(RapoError):
    """The run folder belongs to another configuration, or is damaged or in use."""


class ResourceError(RapoError):
    """The machine or cluster lacks something: memory, disk, a port, a package."""


class WeightError(RapoError):
    """A weight version failed verification: checksum, missing or unknown parameter."""


class RoleError(RapoError):
    """A remote role failed or timed out. The message names role, node, cause and log.

    `kind` is a word for counting: died, hung, late, node lost, out of memory, data lost (an object
    that the role needs is gone), failed and the like.
    """

    def __init__(self, message: str, *, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return _role_error, (str(self), self.kind)


def _role_error(message: str, kind: str) -> RoleError:
    return RoleError(message, kind=kind)


class ServiceError(RapoError):
    """The scoring service refused or failed a request."""
