"""Stacked linear layers, forward and backward, that write into a workspace instead of memory of their own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vae_study.vae.kernels import Derivative, is_wide, onednn
from vae_study.vae.networks.layers import StackedLinear, StackedMLP


class Workspace:
    """The memory that all blocks of a batch share, and where their gradients go.

    Each block gets the same tensors in the same order, with the values of the block before. So the memory stays in the
    cache and is allocated once, by the first block, which is the largest.

    Attributes:
        models: Which G of the K models the block is.
        rows: Examples of a minibatch, B.
    """

    def __init__(self, gradients: Mapping[nn.Parameter, Tensor], rows: int, widest: int):
        """Prepare for blocks.

        Args:
            gradients: Where each parameter's gradient goes, (K, ...).
            rows: Examples of a minibatch.
            widest: Numbers of one example in the widest layer.
        """
        self.gradients, self.rows, self.widest = gradients, rows, widest
        self.like = next(iter(gradients.values()))
        self.tensors, self.lent = list[Tensor](), list[Tensor]()

    def begin(self, models: slice) -> None:
        """Start a block: hand out the first tensor again."""
        self.models, self.count, self.taken = models, int(models.stop - models.start), 0
        if not self.lent:
            self.lent = [self.like.new_empty(self.count * self.rows * self.widest) for _ in range(2)]

    def own(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """The block's rows of a parameter and of its gradient, (G, ...)."""
        return parameter.detach()[self.models], self.gradients[parameter][self.models]

    def take(self, *shape: int) -> Tensor:
        """The next tensor, contiguous, (G, ...)."""
        size = self.count * torch.Size(shape).numel()
        if self.taken == len(self.tensors):
            self.tensors.append(self.like.new_empty(size))
        tensor = self.tensors[self.taken][:size]
        self.taken += 1
        return tensor.view(self.count, *shape)

    def take_rows(self, width: int) -> Tensor:
        """Memory of shape (G, B, width)."""
        return self.take(self.rows, width)

    def take_code(self, latent: int) -> Tensor:
        """Memory of shape (G, Z, B): MKL is slow where a product has as few columns as a code."""
        return self.take(latent, self.rows)

    def lend_rows(self, number: int, width: int) -> Tensor:
        """One of two tensors (G, B, width), by an even or odd number: a layer reads the one and writes the other."""
        return self.lent[number % 2][: self.count * self.rows * width].view(self.count, self.rows, width)


class Linear:
    """The linear layers of G models at once: y = x W + b."""

    def __init__(self, layer: StackedLinear, workspace: Workspace):
        self.weight_GIO, self.weight_gradient_GIO = workspace.own(layer.weight_KIO)
        self.bias_G1O, self.bias_gradient_G1O = workspace.own(_bias(layer))
        self.out_GBO = workspace.take_rows(self.weight_GIO.shape[2])
        # torch.bmm is slow if its output is not contiguous: then it goes to the workspace first.
        product_GIO = workspace.take(*self.weight_GIO.shape[1:])
        self.product_GIO = self.weight_gradient_GIO if self.weight_gradient_GIO.is_contiguous() else product_GIO

    def forward(self, x_GBI: Tensor) -> Tensor:
        """Map (G, B, I) to (G, B, O)."""
        return torch.baddbmm(self.bias_G1O, x_GBI, self.weight_GIO, out=self.out_GBO)

    def backward(self, x_GBI: Tensor, gradient_GBO: Tensor) -> None:
        """Write the parameters' gradients, given those of the outputs."""
        torch.sum(gradient_GBO, 1, keepdim=True, out=self.bias_gradient_G1O)
        torch.bmm(x_GBI.mT, gradient_GBO, out=self.product_GIO)
        if self.product_GIO is not self.weight_gradient_GIO:
            self.weight_gradient_GIO.copy_(self.product_GIO)

    def input_gradient(self, gradient_GBO: Tensor, out_GBI: Tensor) -> None:
        """Write the gradient of the inputs."""
        torch.bmm(gradient_GBO, self.weight_GIO.mT, out=out_GBI)

    def code_gradient(self, gradient_GBO: Tensor, out_GIB: Tensor) -> None:
        """Write the gradient of the inputs, transposed as codes are."""
        torch.bmm(self.weight_GIO, gradient_GBO.mT, out=out_GIB)


class WideLinear:
    """As Linear, for one model, by oneDNN."""

    def __init__(self, layer: StackedLinear, workspace: Workspace):
        weight_1IO, weight_gradient_1IO = workspace.own(layer.weight_KIO)
        bias_11O, self.bias_gradient_11O = workspace.own(_bias(layer))
        self.weight_IO, self.weight_gradient_IO, self.bias_O = weight_1IO[0], weight_gradient_1IO[0], bias_11O[0, 0]

    def forward(self, x_1BI: Tensor) -> Tensor:
        """Map (1, B, I) to (1, B, O)."""
        return onednn(x_1BI, self.weight_IO.T, self.bias_O)

    def backward(self, x_1BI: Tensor, gradient_1BO: Tensor) -> None:
        """As Linear.backward."""
        torch.sum(gradient_1BO, 1, keepdim=True, out=self.bias_gradient_11O)
        self.weight_gradient_IO.copy_(onednn(x_1BI[0].T, gradient_1BO[0].T))

    def input_gradient(self, gradient_1BO: Tensor, out_1BI: Tensor) -> None:
        """As Linear.input_gradient."""
        out_1BI.copy_(onednn(gradient_1BO, self.weight_IO))

    def code_gradient(self, gradient_1BO: Tensor, out_1IB: Tensor) -> None:
        """As Linear.code_gradient."""
        out_1IB.copy_(onednn(self.weight_IO, gradient_1BO[0]))


class Head:
    """The linear layers of G models from a hidden layer to mean or log variance, transposed: (G, Z, B)."""

    def __init__(self, layer: StackedLinear, workspace: Workspace):
        self.weight_GIZ, self.weight_gradient_GIZ = workspace.own(layer.weight_KIO)
        bias_G1Z, bias_gradient_G1Z = workspace.own(_bias(layer))
        self.bias_GZ1, self.bias_gradient_GZ1 = bias_G1Z.mT, bias_gradient_G1Z.mT
        _, inputs, latent = self.weight_GIZ.shape
        self.out_GZB, self.product_GZI = workspace.take_code(latent), workspace.take(latent, inputs)

    def forward(self, x_GBI: Tensor) -> Tensor:
        """Map (G, B, I) to (G, Z, B)."""
        return torch.baddbmm(self.bias_GZ1, self.weight_GIZ.mT, x_GBI.mT, out=self.out_GZB)

    def backward(self, x_GBI: Tensor, gradient_GZB: Tensor) -> None:
        """As Linear.backward."""
        torch.sum(gradient_GZB, 2, keepdim=True, out=self.bias_gradient_GZ1)
        self.weight_gradient_GIZ.copy_(torch.bmm(gradient_GZB, x_GBI, out=self.product_GZI).mT)

    def add_input_gradient(self, gradient_GZB: Tensor, out_GBI: Tensor) -> None:
        """Add the gradient of the inputs to what is there."""
        out_GBI.baddbmm_(gradient_GZB.mT, self.weight_GIZ.mT)

    def input_gradient(self, gradient_GZB: Tensor, out_GBI: Tensor) -> None:
        """Write the gradient of the inputs."""
        torch.bmm(gradient_GZB.mT, self.weight_GIZ.mT, out=out_GBI)


def _bias(layer: StackedLinear) -> nn.Parameter:
    assert layer.bias_K1O is not None, "only a layer in front of a batch normalization has no bias"
    return layer.bias_K1O


class MLP:
    """The multilayer perceptrons of G models."""

    def __init__(self, mlp: StackedMLP, activation: Derivative, workspace: Workspace):
        stacked = [layer for layer in mlp.layers if isinstance(layer, StackedLinear)]
        self.layers = [
            WideLinear(layer, workspace) if is_wide(layer.weight_KIO, workspace.rows) else Linear(layer, workspace)
            for layer in stacked
        ]
        self.activation, self.activated = activation, mlp.activated
        sizes = [(layer.weight_KIO.shape[1], layer.weight_KIO.shape[2]) for layer in stacked]
        self.input_gradients = [workspace.lend_rows(index, inputs) for index, (inputs, _) in enumerate(sizes)]
        kept = [] if activation.by_output else sizes[: mlp.activated]
        self.activations = [workspace.take_rows(outputs) for _, outputs in kept]

    def forward(self, x_GBI: Tensor) -> Tensor:
        """Map (G, B, I) to (G, B, O)."""
        self.inputs, self.kept = [x_GBI], list[Tensor]()
        for index, layer in enumerate(self.layers):
            out_GBO = layer.forward(self.inputs[-1])
            self.inputs.append(self._activate(index, out_GBO) if index < self.activated else out_GBO)
        return self.inputs[-1]

    def _activate(self, index: int, x_GBO: Tensor) -> Tensor:
        y_GBO = x_GBO if self.activation.by_output else self.activations[index]
        self.activation.forward(x_GBO, y_GBO)
        self.kept.append(x_GBO)
        return y_GBO

    def backward(self, gradient_GBO: Tensor) -> Tensor:
        """Write the parameters' gradients, given that of the outputs, which is overwritten.

        Returns:
            The gradient of the first layer's outputs before their activation.
        """
        for index in reversed(range(len(self.layers))):
            if index < self.activated:
                self.activation.backward(gradient_GBO, self.kept[index])
            self.layers[index].backward(self.inputs[index], gradient_GBO)
            if index > 0:
                self.layers[index].input_gradient(gradient_GBO, self.input_gradients[index])
                gradient_GBO = self.input_gradients[index]
        return gradient_GBO
