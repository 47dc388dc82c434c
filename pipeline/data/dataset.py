"""A data set ready for training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Split:
    """Preprocessed examples of one split.

    Attributes:
        x_ND: Float32 features.
        is_anomaly_N: Which rows are anomalous; none in train.
        row_N: Each example's row in the source.
        label_code_N: Each example's place in `labels`; None where the source has no labels.
        labels: The source's distinct labels as text.
    """

    x_ND: NDArray[np.float32]
    is_anomaly_N: NDArray[np.bool_]
    row_N: NDArray[np.int64]
    label_code_N: NDArray[np.int32] | None = None
    labels: tuple[str, ...] = ()

    @property
    def label_N(self) -> NDArray[np.str_]:
        """Each example's label as text; empty text where the source has no labels."""
        # Made anew each time: codes are a fraction of its size.
        text_L, code_N = np.array(self.labels or ("",)), self.label_code_N
        return text_L[np.zeros(len(self.row_N), np.int32) if code_N is None else code_N]

    @property
    def normal_ND(self) -> NDArray[np.float32]:
        """The features of the normal rows."""
        return self.x_ND[~self.is_anomaly_N] if self.is_anomaly_N.any() else self.x_ND


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is to know of a data set beside its rows.

    Attributes:
        source: What to call the data: the name of a file or folder, else the spec's source.
        image_shape: Height and width, with the channels before them if there are any, where the features are pixels;
            else None.
        classes: The labels that occur among the training rows, as text; none where the source has no labels.
        sha256: Fingerprint of the source's content: names, values, categories, labels, what it is split by.
        preprocessing: How the source's columns became features, and the way back.
        notes: What a user should know, such as columns left out and rows moved.
    """

    source: str
    image_shape: tuple[int, ...] | None
    classes: tuple[str, ...]
    sha256: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the D features, after preprocessing."""
        return self.preprocessing.feature_names

    def plain(self) -> dict[str, Any]:
        """Dictionaries, lists, numbers and text, for JSON and `facts_from`."""
        return {
            "source": self.source,
            "image_shape": self.image_shape,
            "classes": self.classes,
            "sha256": self.sha256,
            "preprocessing": self.preprocessing.plain(),
            "notes": self.notes,
        }


def facts_from(plain: Mapping[str, Any]) -> Facts:
    """The facts that `plain` was made from, also where JSON made lists of its tuples."""
    return Facts(
        source=plain["source"],
        image_shape=None if plain["image_shape"] is None else tuple(plain["image_shape"]),
        classes=tuple(plain["classes"]),
        sha256=plain["sha256"],
        preprocessing=Preprocessing.from_plain(plain["preprocessing"]),
        notes=tuple(plain["notes"]),
    )


@dataclass(frozen=True, kw_only=True)
class Dataset(Facts):
    """A data set ready for training, and what to remember of it.

    Attributes:
        splits: `train` (normal rows only), `validation` and `test`, all preprocessed by what train showed.
    """

    splits: Mapping[str, Split]

    @property
    def has_anomalies(self) -> bool:
        """Whether validation and test can tell how well anomalies are found."""
        return all(self.splits[name].is_anomaly_N.any() for name in ("validation", "test"))

    def condition(self, name: str) -> NDArray[np.float32]:
        """The labels of a split as indicators of `classes`, (N, C); a label unseen in training has none."""
        split = self.splits[name]
        if split.label_code_N is None:
            return np.zeros((len(split.row_N), 0), np.float32)
        indicator_LC = (np.array(split.labels)[:, None] == np.array(self.classes)).astype(np.float32)
        indicator_NC: NDArray[np.float32] = indicator_LC[split.label_code_N]
        return indicator_NC

    def summary(self) -> dict[str, Any]:
        """What the tracking store keeps of the data: plain values only."""
        counts = {
            name: {"rows": len(split.row_N), "anomalies": int(split.is_anomaly_N.sum())}
            for name, split in self.splits.items()
        }
        return {
            "source": self.source,
            "sha256": self.sha256,
            "features": len(self.feature_names),
            "feature_names": list(self.feature_names),
            "image_shape": list(self.image_shape) if self.image_shape else None,
            "splits": counts,
            "columns": self.preprocessing.facts(),
            "notes": list(self.notes),
        }
