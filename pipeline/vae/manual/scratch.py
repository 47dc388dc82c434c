"""Memory that the blocks of a pack take turns with, so that it stays in the cache and is asked for once."""

import torch
from torch import Tensor


class Scratch:
    """Tensors handed out in the same order to each block; what another block left is in them.

    The first block is the largest.
    """

    def __init__(self, like: Tensor):
        self.like, self.parts, self.taken = like, list[Tensor](), 0
        self.pair = [like.new_empty(0), like.new_empty(0)]

    def rewind(self) -> None:
        """Begin again with the first tensor, for another block."""
        self.taken = 0

    def reserve(self, largest: int) -> None:
        """Make room for the largest tensor that `lend` will be asked for."""
        self.pair = [self.like.new_empty(largest) for _ in range(2)]

    def take(self, *shape: int) -> Tensor:
        """The next tensor, contiguous."""
        size = torch.Size(shape).numel()
        if self.taken == len(self.parts):
            self.parts.append(self.like.new_empty(size))
        part = self.parts[self.taken][:size]
        self.taken += 1
        return part.view(shape)

    def lend(self, number: int, *shape: int) -> Tensor:
        """One of two memories, by an even or odd number: the next one lent may be written from it."""
        return self.pair[number % 2][: torch.Size(shape).numel()].view(shape)
