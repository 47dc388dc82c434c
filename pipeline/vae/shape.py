"""What a model has to know of the data that it is made for."""

from dataclasses import dataclass

from pipeline.data import Dataset


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """Sizes of the data.

    Attributes:
        features: D.
        image: Channels, height and width where the features are pixels, channel by channel and row by row; else None.
        classes: Number of labels that occur among the training rows.
    """

    features: int
    image: tuple[int, int, int] | None = None
    classes: int = 0


def shape_of(data: Dataset) -> DataShape:
    """The shape of a data set."""
    image = None
    if data.image_shape is not None:
        *channels, height, width = data.image_shape
        image = (channels[0] if channels else 1, height, width)
    return DataShape(features=len(data.feature_names), image=image, classes=len(data.classes))
