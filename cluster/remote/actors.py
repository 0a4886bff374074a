"""Actors: starts the plain classes of `actors/` as Ray actors.

`Launcher(role)(arguments, options)` is the one place where a class becomes an actor. A caller that
wants other actors (hosted, simulated, plain objects) brings another callable of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

import ray

if TYPE_CHECKING:
    from ray.actor import ActorClass, ActorHandle


class Role(Protocol):
    """A class whose instances may be actors. `ACTOR_OPTIONS` are arguments of `ray.remote`."""

    ACTOR_OPTIONS: ClassVar[Mapping[str, object]]


class Launch(Protocol):
    """Starts an actor; returns its handle at once. `options` are those of Ray's `.options`."""

    def __call__(self, *arguments: object, options: Mapping[str, object]) -> ActorHandle: ...


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts actors of the class `role`."""

    role: type[Role]

    def __call__(self, *arguments: object, options: Mapping[str, object]) -> ActorHandle:
        return cast("ActorHandle", _actor_class(self.role).options(**options).remote(*arguments))


@cache
def _actor_class(role: type[Role]) -> ActorClass:
    # Once per class: Ray exports every new one to the whole cluster.
    return ray.remote(**role.ACTOR_OPTIONS)(role)  # type: ignore[call-overload]  # the stubs know no mapping
