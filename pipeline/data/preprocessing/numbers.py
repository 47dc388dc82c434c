"""A column of numbers as a scaled feature, with a second one beside it where values are missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.data.preprocessing.scales import Floats, Scale, fit_scale, scale_from
from pipeline.spec.data import DataSpec


@dataclass(frozen=True, kw_only=True)
class NumberColumn:
    """What train showed of one numeric column.

    Attributes:
        name: The user's.
        fill: The median of train's values, which stands for those that are missing; None where all are.
        missing: How many training rows had no value.
        scale: None for a column that has no two values in train, which is no feature.
    """

    name: str
    fill: float | None
    missing: int
    scale: Scale | None

    @classmethod
    def fit(cls, name: str, x_N: Floats, spec: DataSpec) -> Self:
        """Look at the N training values, NaN where one is missing."""
        present_N = x_N[~np.isnan(x_N)]
        missing = len(x_N) - len(present_N)
        if len(present_N) == 0:
            return cls(name=name, fill=None, missing=missing, scale=None)
        fill = float(np.median(present_N))
        varies = present_N.min() < present_N.max()
        scale = fit_scale(spec.scale, present_N, spec.clip) if varies else None
        return cls(name=name, fill=fill, missing=missing, scale=scale)

    @property
    def has_indicator(self) -> bool:
        """Whether a feature says where the value was missing."""
        return self.missing > 0 and self.fill is not None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that the column becomes."""
        own = (self.name,) if self.scale else ()
        return (*own, f"{self.name} missing") if self.has_indicator else own

    def encode(self, x_N: Floats) -> Floats:
        """The features of N values, (N, F)."""
        is_missing_N = np.isnan(x_N)
        filled_N = x_N if self.fill is None else np.where(is_missing_N, np.float32(self.fill), x_N)
        parts = [] if self.scale is None else [self.scale(filled_N)]
        if self.has_indicator:
            parts.append(is_missing_N.astype(np.float32))
        return np.stack(parts, axis=1)

    def decode(self, x_NF: Floats) -> Floats:
        """The N values that features stand for, NaN where the indicator says so."""
        constant = np.nan if self.fill is None else self.fill
        value_N = np.full(len(x_NF), constant, np.float32) if self.scale is None else self.scale.inverse(x_NF[:, 0])
        return np.where(x_NF[:, -1] > 0.5, np.float32(np.nan), value_N) if self.has_indicator else value_N

    def stand_in(self) -> str:
        """What a missing value becomes where no indicator tells, as part of a note."""
        return f"the median {self.fill:g} stands in"

    def note(self) -> str | None:
        """What a user should know of the column."""
        if self.fill is None:
            return f"column {self.name!r} is left out: it has no value in any training row"
        beside = f"training rows without {self.name!r}, where feature '{self.name} missing' is 1: {self.missing:,}"
        if self.scale is None:
            constant = f"column {self.name!r} is left out: all training rows have {self.fill:g}"
            return f"{constant}; {beside}" if self.missing else constant
        return f"{beside}; {self.stand_in()}" if self.missing else None

    def plain(self) -> dict[str, Any]:
        """Dictionaries, numbers and text, for `from_plain`."""
        scale = None if self.scale is None else self.scale.plain()
        return {"name": self.name, "fill": self.fill, "missing": self.missing, "scale": scale}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The column that `plain` was made from."""
        return cls(**{**plain, "scale": None if plain["scale"] is None else scale_from(plain["scale"])})
