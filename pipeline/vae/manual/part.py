"""Some members of a pack that are computed together, and what they work with."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.vae.manual.scratch import Scratch


@dataclass(frozen=True, kw_only=True)
class Part:
    """G of K members in a row.

    Attributes:
        members: Which.
        rows: Examples of a batch, B.
        gradients: Where each parameter's gradient goes, shape (K, ...).
        scratch: Memory.
    """

    members: slice
    rows: int
    gradients: Mapping[nn.Parameter, Tensor]
    scratch: Scratch

    @property
    def count(self) -> int:
        """G."""
        return int(self.members.stop - self.members.start)

    def own(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """The members' rows of a parameter and of its gradient, (G, ...)."""
        return parameter.detach()[self.members], self.gradients[parameter][self.members]

    def take(self, width: int) -> Tensor:
        """Memory of shape (G, B, width)."""
        return self.scratch.take(self.count, self.rows, width)

    def take_code(self, latent: int) -> Tensor:
        """Memory of shape (G, Z, B): MKL is slow where a product has as few columns as a code."""
        return self.scratch.take(self.count, latent, self.rows)

    def lend(self, number: int, width: int) -> Tensor:
        """As Scratch.lend, of shape (G, B, width)."""
        return self.scratch.lend(number, self.count, self.rows, width)
