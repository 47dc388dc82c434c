"""The one kind of object a spec is made of, and the types that several of its parts use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict


class SpecPart(BaseModel):
    """Frozen and strict: an unknown key or a value of another type is an error, never a guess."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]

# YAML has lists where a frozen object wants tuples.
FromList = Strict(False)
