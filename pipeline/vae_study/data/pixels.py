"""Images of 8 bits a value, kept as bytes of which only rows that are asked for become numbers; parts of features."""

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_study.data.windows import Windows
from vae_study.storage import writing_to_cache

Bytes = NDArray[np.uint8]
# So many different values has a byte.
VALUES = 256
# Images of fewer bytes than these are collected in memory.
BYTES_IN_MEMORY = 2**26
# Looked up at once, so that their indices stay in a processor's cache.
LOOKED_UP = 2**18
# Of windows, which copies make many times larger: 32 MB in float64; of rows that are examples, 64 MB.
VALUES_AT_ONCE, VALUES_OF_ROWS = 2**22, 2**23


class PixelBytes:
    """N images of D pixels, each a byte, and the number that each of 256 bytes stands for.

    It is indexed as an array of these numbers (N, D) is, by a row, a slice, indices or a mask, and gives copies of
    these rows only.

    Attributes:
        byte_RD: The bytes of R images, an array of numpy, which may be a file's pages, or a tensor.
        value_V: The number of each byte, of the same kind.
        place_N: Where each of the N images is among the R, of the same kind; None if all are there in this order.
    """

    def __init__(self, byte_RD: Any, value_V: Any, place_N: Any = None):
        """Make the view; nothing is copied."""
        self.byte_RD, self.value_V, self.place_N = byte_RD, value_V, place_N

    def __len__(self) -> int:
        """N."""
        return len(self.byte_RD if self.place_N is None else self.place_N)

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        return len(self), self.byte_RD.shape[1]

    @property
    def dtype(self) -> Any:
        """That of the numbers."""
        return self.value_V.dtype

    @property
    def byte_ND(self) -> Any:
        """The bytes of the N images; if they are only some of the R, copies."""
        return self.byte_RD if self.place_N is None else self.byte_RD[self.place_N]

    @property
    def device(self) -> Any:
        """That of the bytes, if they are a tensor."""
        return self.byte_RD.device

    def __getitem__(self, key: Any) -> Any:
        """The numbers of some images, (n, D), or of one, (D,)."""
        place = key if self.place_N is None else self.place_N[key]
        if isinstance(self.byte_RD, np.ndarray):
            return _looked_up(self.byte_RD[place], self.value_V)
        is_list = getattr(place, "ndim", 0) == 1 and place.dtype.itemsize == np.dtype(np.int64).itemsize
        # Several times as fast as indexing by a list of rows, which copies byte by byte.
        byte_nD = self.byte_RD.index_select(0, place) if is_list else self.byte_RD[place]
        return self.value_V.index_select(0, byte_nD.flatten().int()).view(byte_nD.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The numbers of all images."""
        return np.asarray(self[:], dtype)

    def only(self, chosen: Any) -> "PixelBytes":
        """Some of the images, by a slice, indices or a mask, as views."""
        if self.place_N is not None:
            return PixelBytes(self.byte_RD, self.value_V, self.place_N[chosen])
        if isinstance(chosen, slice):
            return PixelBytes(self.byte_RD[chosen], self.value_V)
        rows, is_numpy = len(self.byte_RD), isinstance(self.byte_RD, np.ndarray)
        # Torch is not imported here: a report does without it.
        every_R = np.arange(rows) if is_numpy else self.byte_RD.new_ones(rows).cumsum(0) - 1
        return PixelBytes(self.byte_RD, self.value_V, every_R[chosen])


def _looked_up(byte_nD: Bytes, value_V: NDArray[Any]) -> NDArray[Any]:
    found_nD = np.empty(byte_nD.shape, value_V.dtype)
    flat, found = np.ascontiguousarray(byte_nD).reshape(-1), found_nD.reshape(-1)
    for start in range(0, len(flat), LOOKED_UP):
        part = slice(start, start + LOOKED_UP)
        # No byte is out of range; without a mode, numpy would buffer what it writes.
        np.take(value_V, flat[part], out=found[part], mode="clip")
    return found_nD


def part_of(x_ND: Any, chosen: Any) -> Any:
    """Some rows of features by a slice, indices or a mask: of `Windows` and `PixelBytes` views, of an array itself."""
    return x_ND.only(chosen) if isinstance(x_ND, Windows | PixelBytes) else x_ND[chosen]


def slices_of(x_ND: Any) -> Iterator[slice]:
    """The rows of some features in slices of at most VALUES_AT_ONCE values, one row at least."""
    rows = max(VALUES_AT_ONCE // max(x_ND.shape[1], 1), 1)
    return (slice(start, start + rows) for start in range(0, len(x_ND), rows))


def collected(images: Iterable[Bytes], count: int, pixels: int) -> Bytes:
    """Images as one array (count, pixels), read-only where it is large: pages of a file of the cache without a name.

    The system writes such pages to the disk and drops them where memory is short, and the file is gone with the array.
    Raise UserError if the cache cannot be written, such as on a full disk.

    Args:
        images: Each image's bytes, `pixels` of them in any shape.
        count: How many images there are.
        pixels: D.
    """
    if count * pixels <= BYTES_IN_MEMORY:
        byte_ND = np.empty((count, pixels), np.uint8)
        for row, image in enumerate(images):
            byte_ND[row] = image.ravel()
        return byte_ND
    with writing_to_cache() as folder, tempfile.TemporaryFile(dir=folder) as file:
        for image in images:
            file.write(image.tobytes())
        file.flush()
        pages = mmap.mmap(file.fileno(), count * pixels, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, np.uint8).reshape(count, pixels)
