"""The one kind of object a spec is made of, and the types that several of its parts use."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict


class SpecPart(BaseModel):
    """Frozen and strict: an unknown key or a value of another type is an error, never a guess."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def _countable(amount: float) -> float:
    """Ray counts in steps of a ten-thousandth."""
    if round(amount, 4) != amount:
        raise ValueError("a number with at most 4 decimals")
    return amount


def _whole_or_a_part(amount: float) -> float:
    """Ray shares a GPU, and gives several only as a whole."""
    if amount > 1 and not amount.is_integer():
        raise ValueError("a whole number, or a part of one such as 0.25")
    return amount


Cpus = Annotated[NotNegative, AfterValidator(_countable)]
Gpus = Annotated[Cpus, AfterValidator(_whole_or_a_part)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]

# YAML has lists where a frozen object wants tuples.
FromList = Strict(False)
