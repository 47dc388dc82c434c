"""The columns of a table as features: numbers, categories and pixels, each fitted on its training rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from vae_study.config.data import DataConfig
from vae_study.data.scales import Constant, Floats, Scale, fit_column_scale, fit_scale, scale_from_plain
from vae_study.data.table import CategoryKind, Table, chunk_slices

# How the bucket of rare categories reads in the user's columns.
RARE = "(rare)"
# What becomes of a missing value that stays missing.
MASKED = "they are masked, and cost the model nothing"
# 64 MB of float32: a sample of pixels or steps that determines moments and quantiles to more digits than matter.
LARGEST_SAMPLE = 2**24
# Two such whole numbers have a sum in 64 bits.
LARGEST_WITH_ORIGIN = 2**62


@dataclass(frozen=True, kw_only=True)
class NumberColumn:
    """A numeric column: one scaled feature, and a second that indicates where values are missing.

    Attributes:
        name: The user's.
        origin: A whole number that values are given less of; 0 unless float64 would round the column's whole numbers.
        fill: The median of the training values, less the origin; it replaces missing ones. None if all are missing.
        missing: The number of training rows without a value.
        scale: None if no training row has a value, or, in models of earlier releases, if all have the same; then the
            column is no feature.
        is_masked: Whether missing values stay missing (NaN), without a second feature.
    """

    name: str
    fill: float | None
    missing: int
    scale: Scale | None
    origin: int = 0
    is_masked: bool = False

    @classmethod
    def fit(cls, name: str, x_N: NDArray[np.floating], config: DataConfig, origin: int = 0) -> Self:
        """Fit to N training values less their origin, NaN where one is missing."""
        present_N = x_N[~np.isnan(x_N)]
        missing, is_masked = len(x_N) - len(present_N), config.missing == "mask"
        fill, scale = None, None
        if len(present_N):
            fill = float(np.median(present_N))
            scale = fit_column_scale(config.scale, present_N, config.clip)
        return cls(name=name, fill=fill, missing=missing, scale=scale, origin=origin, is_masked=is_masked)

    @property
    def has_indicator(self) -> bool:
        """Whether a second feature indicates where the value is missing."""
        return self.missing > 0 and self.fill is not None and not self.is_masked

    @property
    def is_constant(self) -> bool:
        """Whether all training values are the same, so that any other value is far off."""
        return isinstance(self.scale, Constant)

    @property
    def varies(self) -> bool:
        """Whether some of the column's features differ among the training rows."""
        return self.has_indicator or (self.scale is not None and not self.is_constant)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the column's features."""
        own = (self.name,) if self.scale else ()
        return (*own, f"{self.name} missing") if self.has_indicator else own

    def encode(self, x_N: NDArray[np.floating], origin: int = 0) -> Floats:
        """The features of N values less an origin, (N, F); NaN where one is missing and stays so."""
        if origin != self.origin:
            x_N = x_N + np.float64(origin - self.origin)
        is_missing_N = np.isnan(x_N)
        filled_N = x_N if self.fill is None or self.is_masked else np.where(is_missing_N, np.float64(self.fill), x_N)
        parts = [] if self.scale is None else [self.scale(filled_N)]
        if self.has_indicator:
            parts.append(is_missing_N.astype(np.float32))
        return np.stack(parts, axis=1)

    def decode(self, x_NF: Floats) -> NDArray[np.float64] | NDArray[np.int64]:
        """The N values of some features, NaN where the indicator says so; whole numbers if there is an origin."""
        constant = np.nan if self.fill is None else self.fill
        value_N = np.full(len(x_NF), constant, np.float64) if self.scale is None else self.scale.inverse(x_NF[:, 0])
        if self.has_indicator:
            value_N = np.where(x_NF[:, -1] > 0.5, np.nan, value_N)
        elif self.origin and abs(self.origin) < LARGEST_WITH_ORIGIN and (abs(value_N) < LARGEST_WITH_ORIGIN).all():
            return np.rint(value_N).astype(np.int64) + self.origin
        return value_N + self.origin if self.origin else value_N

    def _shown(self) -> str:
        """The median in the user's units; whole numbers with all their digits."""
        assert self.fill is not None
        is_whole = self.fill.is_integer() and abs(self.fill) < 1e15
        return str(int(self.fill) + self.origin) if is_whole else f"{self.fill + self.origin:g}"

    def replacement(self) -> str:
        """What becomes of a missing value if train has none, as part of a note."""
        return MASKED if self.is_masked else f"the median {self._shown()} is used instead"

    def note(self) -> str | None:
        """What a user should know about the column."""
        if self.fill is None:
            return None if self.scale else f"column {self.name!r} is left out: it has no value in any training row"
        where = "" if self.is_masked else f", where feature '{self.name} missing' is 1"
        beside = f"training rows without {self.name!r}{where}: {self.missing:,}"
        if self.scale is None or self.is_constant:
            becomes = "any other value counts as far off" if self.scale else "the column is left out"
            constant = f"all training rows have {self._shown()} in {self.name!r}: {becomes}"
            return f"{constant}; {beside}" if self.missing else constant
        return f"{beside}; {self.replacement()}" if self.missing else None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The column whose `dataclasses.asdict` is given."""
        return cls(**{**plain, "scale": None if plain["scale"] is None else scale_from_plain(plain["scale"])})


@dataclass(frozen=True, kw_only=True)
class CategoryColumn:
    """A categorical column: a feature for each category, or one feature that ranks them by frequency.

    Attributes:
        name: The user's.
        kept: The categories that have an index of their own, from the most frequent to the rarest; None is the missing
            value.
        has_rare: Whether training rows are in the bucket of rare categories, whose index follows all others. The bucket
            also takes categories unseen in training; if it is no feature, these are 0 in all features.
        missing: The number of training rows without a value.
        encode_as: `one_hot` or `ordinal`.
        kind: What the values were, as in Table: how a scored text is compared with them depends on it.
        scale: Of the indices; None if encoded one_hot, or if there is only one.
        is_masked: Whether missing values stay missing (NaN in all features).
    """

    name: str
    kept: tuple[str | None, ...]
    has_rare: bool
    missing: int
    encode_as: Literal["one_hot", "ordinal"]
    kind: CategoryKind = "text"
    scale: Scale | None = None
    is_masked: bool = False

    @classmethod
    def fit(
        cls,
        name: str,
        code_N: NDArray[np.int32],
        categories: Sequence[str],
        config: DataConfig,
        kind: CategoryKind = "text",
    ) -> Self:
        """Fit to N training values, which are indices into `categories`, -1 where one is missing."""
        # The last count is that of -1.
        count_V = np.bincount(code_N.astype(np.int64) % (len(categories) + 1), minlength=len(categories) + 1)
        order_V = np.argsort(-count_V, kind="stable")
        is_common_V = (count_V > 0) & (count_V >= config.categories.rare * len(code_N))
        is_masked, missing = config.missing == "mask", int(count_V[-1])
        # A missing value is never a rare category: that it is missing may be informative.
        count_V[-1] *= not is_masked
        is_common_V[-1] = count_V[-1] > 0
        values: tuple[str | None, ...] = (*categories, None)
        column = cls(
            name=name,
            kept=tuple(values[code] for code in order_V if is_common_V[code]),
            has_rare=bool((count_V[~is_common_V] > 0).any()),
            missing=missing,
            encode_as=config.categories.encode,
            kind=kind,
            is_masked=is_masked,
        )
        if column.encode_as == "one_hot" or not column.varies:
            return column
        # The bucket counts once at least, so that every scale has room for unseen categories.
        present_N = code_N[code_N >= 0] if is_masked else code_N
        index_N = np.append(column.indices(categories)[present_N], len(column.kept)).astype(np.float32)
        return replace(column, scale=fit_scale(config.scale, index_N, config.clip))

    @property
    def varies(self) -> bool:
        """Whether training rows have several categories; otherwise the column is no feature."""
        return len(self.kept) + self.has_rare > 1

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the column's features."""
        if not self.varies:
            return ()
        if self.encode_as == "ordinal":
            return (self.name,)
        own = [f"{self.name} missing" if value is None else f"{self.name}={value}" for value in self.kept]
        return (*own, f"{self.name} rare") if self.has_rare else tuple(own)

    def indices(self, categories: Sequence[str]) -> NDArray[np.int64]:
        """The index in `kept` of each of V categories of a table, and at the end of the missing value, (V + 1,).

        It is that of no category where missing values stay missing.
        """
        index_of = {value: index for index, value in enumerate(self.kept)}
        if self.is_masked:
            index_of[None] = -1
        return np.array([index_of.get(value, len(self.kept)) for value in (*categories, None)])

    def encode(self, index_N: NDArray[np.int64]) -> Floats:
        """The features of N values, (N, F), from their indices."""
        if self.scale is not None:
            x_NF = self.scale(index_N.astype(np.float32))[:, None]
        else:
            x_NF = (index_N[:, None] == np.arange(len(self.features))).astype(np.float32)
        if self.is_masked:
            x_NF[index_N < 0] = np.nan
        return x_NF

    def decode(self, x_NF: Floats) -> NDArray[np.object_]:
        """The N categories of some features: text, None for a missing value, RARE for the bucket."""
        is_missing_N = np.isnan(x_NF).any(axis=1)
        if self.scale is not None:
            place_N = np.rint(self.scale.inverse(x_NF[:, 0]))
            index_N = np.clip(np.where(is_missing_N, 0, place_N), 0, len(self.kept)).astype(np.int64)
        elif not self.varies:
            index_N = np.zeros(len(x_NF), np.int64)
        else:
            index_N = np.where(x_NF.max(axis=1) > 0, x_NF.argmax(axis=1), len(self.kept))
        value_N: NDArray[np.object_] = np.array([*self.kept, RARE], object)[index_N]
        value_N[is_missing_N] = None
        return value_N

    def replacement(self) -> str:
        """What becomes of a missing value if train has none, as part of a note."""
        return MASKED if self.is_masked else "it counts as a rare category"

    def note(self) -> str | None:
        """What a user should know about the column."""
        if self.varies:
            is_told = self.is_masked and self.missing
            return f"training rows without {self.name!r}: {self.missing:,}; {MASKED}" if is_told else None
        if self.kept:
            return f"column {self.name!r} is left out: all training rows have {self.kept[0] or 'no value'}"
        return f"column {self.name!r} is left out: each of its categories is rarer than data.categories.rare"

    def display_names(self) -> list[str]:
        """The categories that have an index, and the bucket if train has rare ones, for people to read."""
        own = ["(missing)" if value is None else value for value in self.kept]
        return [*own, RARE] if self.has_rare else own

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The column whose `dataclasses.asdict` is given."""
        scale = None if plain["scale"] is None else scale_from_plain(plain["scale"])
        return cls(**{**plain, "kept": tuple(plain["kept"]), "scale": scale})


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The pixels of images. All share one scale, so that one that is dark in every training image stays comparable.

    Attributes:
        features: D names.
        image_shape: Height and width, preceded by the number of channels if there are several.
        scale: Of all pixels.
        low, high: The smallest and largest value in training images.
        depth: What the values are, as in Table.
    """

    features: tuple[str, ...]
    image_shape: tuple[int, ...]
    scale: Scale
    low: float
    high: float
    depth: str = ""

    @classmethod
    def fit(cls, table: Table, rows_N: NDArray[np.int64], config: DataConfig) -> Self:
        """Fit to the training images, the rows `rows_N` of a table of images."""
        assert table.image_shape is not None
        sample_P = _sample(table.x_ND, rows_N).astype(np.float32 if table.is_bytes else table.x_ND.dtype, copy=False)
        return cls(
            features=table.feature_names,
            image_shape=table.image_shape,
            scale=fit_scale(config.scale, sample_P, config.clip),
            low=float(sample_P.min()),
            high=float(sample_P.max()),
            depth=table.depth,
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The pixels whose `dataclasses.asdict` is given."""
        features, shape = tuple(plain["features"]), tuple(plain["image_shape"])
        scale = scale_from_plain(plain["scale"])
        return cls(**{**plain, "features": features, "image_shape": shape, "scale": scale})


def sensor_scale(x_NT: NDArray[np.floating], rows_N: NDArray[np.int64], config: DataConfig) -> Scale | None:
    """The scale of a sensor, fitted to all T steps of the training rows; None if no step has a value."""
    sample_P = _sample(x_NT, rows_N)
    present_P = sample_P[~np.isnan(sample_P)]
    return fit_column_scale(config.scale, present_P, config.clip) if len(present_P) else None


def _sample(x_ND: NDArray[np.floating], rows_N: NDArray[np.int64]) -> NDArray[np.floating]:
    """All values of evenly spaced rows, up to LARGEST_SAMPLE; and the smallest and largest value of all rows."""
    step = -(-len(rows_N) * x_ND.shape[1] // LARGEST_SAMPLE)
    if step <= 1:
        return x_ND[rows_N].ravel()
    parts = (x_ND[rows_N[rows]] for rows in chunk_slices(len(rows_N), x_ND.shape[1]))
    ends = np.array([(np.fmin.reduce(part, axis=None), np.fmax.reduce(part, axis=None)) for part in parts], x_ND.dtype)
    return np.append(x_ND[rows_N[::step]].ravel(), (np.fmin.reduce(ends[:, 0]), np.fmax.reduce(ends[:, 1])))
