"""Types of the configuration: the base of every section, kinds of numbers, and the mark of fields
that may change when a run is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from rapo.storage.urls import not_local, not_stored

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0)]
Amount = Annotated[float, Field(ge=0.0)]


def _local(path: str) -> str:
    problem = not_local(path)
    if problem is not None:
        raise ValueError(problem)
    return path


def _stored(path: str) -> str:
    problem = not_stored(path)
    if problem is not None:
        raise ValueError(problem)
    return path


#: The folder of a model, its URL in object storage, or other words in their place.
StoredModel = Annotated[str, AfterValidator(_stored)]


def _stored_path(path: object) -> object:
    return path if not isinstance(path, (str, Path)) else Path(_stored(str(path)))


#: A path of this machine, or a URL of object storage.
StoredPath = Annotated[Path, BeforeValidator(_stored_path)]

#: Roles whose processes may have environment variables of their own.
EnvironmentRole: TypeAlias = Literal["all", "teacher", "coldstart", "rollout", "learner", "serve"]


class _MayChange:
    """The mark that `MayChange` leaves in a field's metadata."""


MAY_CHANGE: Final = _MayChange()

T = TypeVar("T")
#: `MayChange[Seconds]` is `Seconds`, marked: the field says where or how a run is executed, not
#: what it computes, so that it may differ between two starts of one run. On a section it covers all
#: of the section.
MayChange: TypeAlias = Annotated[T, MAY_CHANGE]


#: Labels that Ray's node of a process must have, such as {"ray.io/market-type" = "spot"}.
NodeLabels: TypeAlias = MayChange[dict[str, str]]


#: How the processes of a role lie on the nodes: on as few as can be, on one or not at all, on as
#: many as can be, or each on one of its own.
Strategy: TypeAlias = Literal["pack", "strict_pack", "spread", "strict_spread"]


class Section(BaseModel):
    """A table of the configuration: unknown keys are refused, values cannot be set, numbers are
    finite, and a path is no URL."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_url_for_a_path(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, (str, Path)) and Path in (annotation, *get_args(annotation)):
            _local(str(value))
        return value
