"""Stacked linear layers, forward and backward, that write into memory which is there already."""

import torch
from torch import Tensor, nn

from pipeline.vae.kernels import is_wide, onednn
from pipeline.vae.manual.activations import Activation
from pipeline.vae.manual.part import Part
from pipeline.vae.networks import StackedLinear, StackedMLP


class Linear:
    """The linear layers of G members at once: y = x W + b."""

    def __init__(self, layer: StackedLinear, part: Part):
        self.weight_GIO, self.weight_gradient_GIO = part.own(layer.weight_KIO)
        self.bias_G1O, self.bias_gradient_G1O = part.own(_bias(layer))
        self.out_GBO = part.take(self.weight_GIO.shape[2])
        # torch.bmm writes into gapless memory at once, into other memory product by product.
        product_GIO = part.scratch.take(*self.weight_GIO.shape)
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
        """Write the gradient of the inputs as codes are laid out."""
        torch.bmm(self.weight_GIO, gradient_GBO.mT, out=out_GIB)


class WideLinear:
    """As Linear, for one member, by oneDNN."""

    def __init__(self, layer: StackedLinear, part: Part):
        weight_1IO, weight_gradient_1IO = part.own(layer.weight_KIO)
        bias_11O, self.bias_gradient_11O = part.own(_bias(layer))
        self.weight_IO, self.weight_gradient_IO, self.bias_O = weight_1IO[0], weight_gradient_1IO[0], bias_11O[0, 0]

    def forward(self, x_1BI: Tensor) -> Tensor:
        """Map (1, B, I) to (1, B, O)."""
        out_1BO: Tensor = onednn(x_1BI, self.weight_IO.T, self.bias_O, "none", [], "")
        return out_1BO

    def backward(self, x_1BI: Tensor, gradient_1BO: Tensor) -> None:
        """As Linear.backward."""
        torch.sum(gradient_1BO, 1, keepdim=True, out=self.bias_gradient_11O)
        self.weight_gradient_IO.copy_(onednn(x_1BI[0].T, gradient_1BO[0].T, None, "none", [], ""))

    def input_gradient(self, gradient_1BO: Tensor, out_1BI: Tensor) -> None:
        """As Linear.input_gradient."""
        out_1BI.copy_(onednn(gradient_1BO, self.weight_IO, None, "none", [], ""))

    def code_gradient(self, gradient_1BO: Tensor, out_1IB: Tensor) -> None:
        """As Linear.code_gradient."""
        out_1IB.copy_(onednn(self.weight_IO, gradient_1BO[0], None, "none", [], ""))


class Head:
    """The linear layers of G members from a hidden layer to a part of the code, (G, Z, B)."""

    def __init__(self, layer: StackedLinear, part: Part):
        self.weight_GIZ, self.weight_gradient_GIZ = part.own(layer.weight_KIO)
        bias_G1Z, bias_gradient_G1Z = part.own(_bias(layer))
        self.bias_GZ1, self.bias_gradient_GZ1 = bias_G1Z.mT, bias_gradient_G1Z.mT
        _, inputs, latent = self.weight_GIZ.shape
        self.out_GZB, self.product_GZI = part.take_code(latent), part.scratch.take(part.count, latent, inputs)

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


def make_linear(layer: StackedLinear, part: Part) -> Linear | WideLinear:
    """The faster of the two for the layer's size."""
    return WideLinear(layer, part) if is_wide(layer.weight_KIO, part.rows) else Linear(layer, part)


class MLP:
    """The multilayer perceptrons of G members."""

    def __init__(self, mlp: StackedMLP, activation: Activation, part: Part):
        stacked = [layer for layer in mlp.layers if isinstance(layer, StackedLinear)]
        self.layers = [make_linear(layer, part) for layer in stacked]
        self.activation, self.activated = activation, mlp.activated
        sizes = [(layer.weight_KIO.shape[1], layer.weight_KIO.shape[2]) for layer in stacked]
        self.input_gradients = [part.lend(index, inputs) for index, (inputs, _) in enumerate(sizes)]
        kept = [] if activation.by_output else sizes[: mlp.activated]
        self.activations = [part.take(outputs) for _, outputs in kept]

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
