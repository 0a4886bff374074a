"""Errors: the errors that a user can act on.

- Every message names the input at fault and says what to do about it.
- The command line prints a `RapoError` without a traceback and exits with code 2. Any other error
  is a defect of rapo and keeps its traceback.
"""

from __future__ import annotations

from enum import StrEnum


class FaultKind(StrEnum):
    """What went wrong with a remote role; the words of `rapo/faults.jsonl` and `rapo status`."""

    DIED = "died"
    NODE_LOST = "node lost"
    OUT_OF_MEMORY = "out of memory"
    HUNG = "hung"  # the process is there and answers no ping
    LATE = "late"  # a call exceeded its time limit
    NO_ROOM = "no room"  # for all processes of a role that start together
    UNREACHABLE = "unreachable"
    DATA_LOST = "data lost"  # the object that a call was given cannot be had any more
    STATE_LOST = "state lost"  # no copy of the learner's state is left
    OBJECT_STORE_FULL = "object store full"
    DISK_FULL = "disk full"
    FAILED = "failed"  # the call raised an error of another kind


class RapoError(Exception):
    """Base of all errors that a user can act on."""


class StoppedError(RapoError):
    """The run was asked to stop, and has saved what it did."""


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


class JudgeError(RapoError):
    """A judge model answers nothing more: it has no budget, key or model, or fails too often."""


class RoleError(RapoError):
    """A remote role failed or timed out. The message names role, node, cause and log."""

    def __init__(self, message: str, *, kind: FaultKind = FaultKind.FAILED) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return _role_error, (str(self), self.kind)


def _role_error(message: str, kind: FaultKind) -> RoleError:
    return RoleError(message, kind=kind)


class ServiceError(RapoError):
    """The scoring service refused or failed a request."""
