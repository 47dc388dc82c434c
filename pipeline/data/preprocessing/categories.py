"""A column of categories as features: one a category, or its place among them by how common they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing.scales import Floats, Scale, fit_scale, scale_from
from pipeline.spec.data import DataSpec

Codes = NDArray[np.int32]
# How the bucket of rare categories reads in the user's columns.
RARE = "(rare)"


@dataclass(frozen=True, kw_only=True)
class CategoryColumn:
    """What train showed of one categorical column.

    Attributes:
        name: The user's.
        kept: The categories with a place of their own, from the commonest to the rarest; None is the missing value.
        has_rare: Whether training rows are in the bucket of rare categories, whose place is after all others. It takes
            those that train has not shown, too; if it is no feature, they have a 0 everywhere.
        missing: How many training rows had no value.
        encode_as: `one_hot` or `ordinal`.
        scale: Of the places; None if they are one_hot, or all one.
    """

    name: str
    kept: tuple[str | None, ...]
    has_rare: bool
    missing: int
    encode_as: Literal["one_hot", "ordinal"]
    scale: Scale | None = None

    @classmethod
    def fit(cls, name: str, code_N: Codes, categories: Sequence[str], spec: DataSpec) -> Self:
        """Look at the N training values, as places in `categories`, -1 where one is missing."""
        # The last count is that of -1.
        count_V = np.bincount(code_N.astype(np.int64) % (len(categories) + 1), minlength=len(categories) + 1)
        order_V = np.argsort(-count_V, kind="stable")
        is_common_V = (count_V > 0) & (count_V >= spec.categories.rare * len(code_N))
        # A missing value is no rare category: that it is missing says something of its own.
        is_common_V[-1] = count_V[-1] > 0
        values: tuple[str | None, ...] = (*categories, None)
        column = cls(
            name=name,
            kept=tuple(values[place] for place in order_V if is_common_V[place]),
            has_rare=bool((count_V[~is_common_V] > 0).any()),
            missing=int(count_V[-1]),
            encode_as=spec.categories.encode,
        )
        return column._with_scale(code_N, categories, spec)

    def _with_scale(self, code_N: Codes, categories: Sequence[str], spec: DataSpec) -> Self:
        if self.encode_as == "one_hot" or not self._varies:
            return self
        # The bucket is seen once at least, so that what is new has a place of its own on every scale.
        place_N = np.append(self.places(categories)[code_N], len(self.kept)).astype(np.float32)
        return replace(self, scale=fit_scale(spec.scale, place_N, spec.clip))

    @property
    def _varies(self) -> bool:
        return len(self.kept) + self.has_rare > 1

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that the column becomes."""
        if not self._varies:
            return ()
        if self.encode_as == "ordinal":
            return (self.name,)
        own = [f"{self.name} missing" if value is None else f"{self.name}={value}" for value in self.kept]
        return (*own, f"{self.name} rare") if self.has_rare else tuple(own)

    def places(self, categories: Sequence[str]) -> NDArray[np.int64]:
        """The place of each of V categories of a table, and of the missing value at the end, (V + 1,)."""
        place_of = {value: place for place, value in enumerate(self.kept)}
        return np.array([place_of.get(value, len(self.kept)) for value in (*categories, None)])

    def encode(self, place_N: NDArray[np.int64]) -> Floats:
        """The features of N values, (N, F), from their places."""
        if self.scale is not None:
            return self.scale(place_N.astype(np.float32))[:, None]
        indicator_NF: Floats = (place_N[:, None] == np.arange(len(self.features))).astype(np.float32)
        return indicator_NF

    def decode(self, x_NF: Floats) -> NDArray[np.object_]:
        """The N categories that features stand for: text, None for a missing value, RARE for the bucket."""
        values = np.array([*self.kept, RARE], object)
        return values[self._decoded_places(x_NF)]

    def _decoded_places(self, x_NF: Floats) -> NDArray[np.int64]:
        if self.scale is not None:
            return np.clip(np.rint(self.scale.inverse(x_NF[:, 0])), 0, len(self.kept)).astype(np.int64)
        if not self._varies:
            return np.zeros(len(x_NF), np.int64)
        return np.where(x_NF.max(axis=1) > 0, x_NF.argmax(axis=1), len(self.kept))

    def stand_in(self) -> str:
        """What a missing value becomes where train has none, as part of a note."""
        return "it counts as a rare category"

    def note(self) -> str | None:
        """What a user should know of the column."""
        if self._varies:
            return None
        if self.kept:
            return f"column {self.name!r} is left out: all training rows have {self.kept[0] or 'no value'}"
        return f"column {self.name!r} is left out: each of its categories is rarer than data.categories.rare"

    def shown(self) -> list[str]:
        """The categories with a place of their own, and the bucket if train has rare ones, for people."""
        own = ["(missing)" if value is None else value for value in self.kept]
        return [*own, RARE] if self.has_rare else own

    def plain(self) -> dict[str, Any]:
        """Dictionaries, numbers and text, for `from_plain`."""
        scale = None if self.scale is None else self.scale.plain()
        return {**self.__dict__, "kept": list(self.kept), "scale": scale}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The column that `plain` was made from."""
        scale = None if plain["scale"] is None else scale_from(plain["scale"])
        return cls(**{**plain, "kept": tuple(plain["kept"]), "scale": scale})
