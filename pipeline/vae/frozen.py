"""Copies of trained models that give each row the same numbers whatever it is scored with, and quickly."""

import copy

from torch import Tensor, nn
from torch.nn import functional

from pipeline.vae.families import Family
from pipeline.vae.kernels import has_onednn, wide_linear
from pipeline.vae.networks import StackedLinear, StackedMLP


class FastLinear(nn.Module):
    """A StackedLinear by oneDNN: twice as fast as torch.baddbmm for thousands of rows, with the activation in it."""

    weight_KIO: Tensor
    bias_K1O: Tensor | None

    def __init__(self, layer: StackedLinear):
        super().__init__()
        # Its transpose is what oneDNN takes: side by side in memory.
        self.register_buffer("weight_KIO", layer.weight_KIO.detach().mT.contiguous().mT)
        self.register_buffer("bias_K1O", None if layer.bias_K1O is None else layer.bias_K1O.detach())
        self.then = "none"

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        return wide_linear(x_KBI, self.weight_KIO, self.bias_K1O, self.then)


def for_scoring(model: Family) -> Family:
    """A copy of a trained model that gives each row the same numbers whatever it is scored with; it cannot be trained.

    They are the same bits in whole blocks of rows (`passes.whole_blocks`) on a CPU where torch comes with oneDNN;
    elsewhere only rounding differs.
    """
    model = copy.deepcopy(model).eval()
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, StackedLinear) and has_onednn(child.weight_KIO):
                setattr(module, name, FastLinear(child))
    for mlp in model.modules():
        if isinstance(mlp, StackedMLP):
            _fuse(mlp)
    return model


def _fuse(mlp: StackedMLP) -> None:
    """Have the layers apply the activation themselves, where they can."""
    activated = [layer for layer in mlp.layers[: mlp.activated] if isinstance(layer, FastLinear)]
    if mlp.norms or mlp.activation is not functional.relu or len(activated) < mlp.activated:
        return
    for layer in activated:
        layer.then = "relu"
    mlp.activated = 0
