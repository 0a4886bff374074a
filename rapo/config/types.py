"""Types of the configuration: the base of every section, kinds of numbers, and the mark of fields
that may change when a run is continued."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0)]
Amount = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _MayChange:
    """The mark that `MayChange` leaves in a field's metadata."""


MAY_CHANGE: Final = _MayChange()

T = TypeVar("T")
#: `MayChange[Seconds]` is `Seconds`, marked: the field says where or how a run is executed, not
#: what it computes, so that it may differ between two starts of one run. On a section it covers all
#: of the section.
MayChange: TypeAlias = Annotated[T, MAY_CHANGE]


class Section(BaseModel):
    """A table of the configuration: unknown keys are refused, values cannot be set."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
