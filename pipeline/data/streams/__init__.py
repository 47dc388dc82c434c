"""Rows of any source as a model's features, a bounded number at a time."""

from pipeline.data.streams.frames import frame_features
from pipeline.data.streams.opening import open_stream
from pipeline.data.streams.stream import Batch, Stream

__all__ = ["Batch", "Stream", "frame_features", "open_stream"]
