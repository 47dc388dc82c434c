"""How examples go through trained models: so many at a time, in whole blocks of rows."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from pipeline.vae.families import Family

# More rows a pass fall out of the cache of a CPU when a pack of convolutional members is measured.
ROWS_PER_PASS = 256
# So many times as many rows go through multilayer perceptrons at once, and on a GPU, while all members' widest
# activations stay within NUMBERS_PER_PASS: each pass costs its calls, and memory must not grow with the features.
MLP_FACTOR, CUDA_FACTOR, NUMBERS_PER_PASS = 16, 32, 2**22
# A CPU rounds what is left over behind its last whole vectors in another way. In whole blocks of rows, a member's
# numbers do not depend on how many others are measured with it.
ROWS_PER_BLOCK = 32


class Examples(NamedTuple):
    """Rows on the device: features, and the labels' indicators for a conditional family."""

    x_ND: Tensor
    condition_NC: Tensor | None

    def at(self, rows_KB: Tensor) -> tuple[Tensor, Tensor | None]:
        """Each member's own rows: (K, B, D) and (K, B, C)."""
        condition_KBC = None if self.condition_NC is None else _rows_of(self.condition_NC, rows_KB)
        return _rows_of(self.x_ND, rows_KB), condition_KBC

    def rows(self, rows_N: Tensor) -> "Examples":
        """Some of the rows."""
        return Examples(self.x_ND[rows_N], None if self.condition_NC is None else self.condition_NC[rows_N])

    def passes(self, members: int, rows: int = ROWS_PER_PASS) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All rows in order, so many at a time and the same for each of K members, without a copy."""
        for start in range(0, len(self.x_ND), rows):
            cut = slice(start, start + rows)
            condition = None if self.condition_NC is None else self.condition_NC[cut].expand(members, -1, -1)
            yield self.x_ND[cut].expand(members, -1, -1), condition


def _rows_of(value_ND: Tensor, rows_KB: Tensor) -> Tensor:
    # Several times as fast as indexing by rows_KB itself, which copies number by number.
    return value_ND.index_select(0, rows_KB.flatten()).view(*rows_KB.shape, -1)


def rows_per_pass(model: Family) -> int:
    """The most rows that it pays to put through a model at once: whole blocks."""
    device = model.code_mask_KZ.device.type
    if device == "cpu" and model.network.kind == "conv":
        return ROWS_PER_PASS
    most = CUDA_FACTOR if device == "cuda" else MLP_FACTOR
    widest = len(model.models) * max((model.shape.features, *model.network.hidden))
    return max(1, min(most, NUMBERS_PER_PASS // (ROWS_PER_PASS * widest))) * ROWS_PER_PASS


def whole_blocks(values: Tensor) -> Tensor:
    """Rows in the last dimension but one, and behind them zeros up to a multiple of ROWS_PER_BLOCK, at least one."""
    rows = values.shape[-2]
    missing = -rows % ROWS_PER_BLOCK if rows else ROWS_PER_BLOCK
    return functional.pad(values, (0, 0, 0, missing)) if missing else values
