"""Encoders and decoders of sequences, K models side by side.

A window of T steps of F features is one example of T * F numbers, step by step. Inside, a sequence is (T, G, I, B):
step by step, G layers side by side (K models times the directions), the minibatch last, so that a step is a few
products and passes over contiguous memory. Where a value is missing (NaN) a network reads 0. It reads an example up to
the last step that has a value; what is behind changes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vae_study.config.model import NetworkConfig

Generators = Sequence[torch.Generator]
# A CPU rounds the remainder after the last full SIMD vector differently. In whole blocks of rows, a model's results do
# not depend on how many other models are measured with it.
ROWS_PER_BLOCK = 32


class Gru:
    """Gated recurrent units (Cho et al. 2014) of G layers, forward and backward, a step at a time.

    r, z = sigmoid(W x + U h), n = tanh(W x + r (U h)), h' = n + z (h - n); the first column of W is the bias, as the
    first input is 1. W has the rows of n, r and z, and U those of r, z and n: so each one's gradient is one block of
    the gradients of n, r, z and U h.
    """

    gates = 3

    def __init__(self, x_TGIB: Tensor, weight_GOI: Tensor, recurrent_GOH: Tensor, steps: int, is_kept: bool):
        """Take the inputs of all steps, or one input for each of them; keep what `backward` takes only if asked to."""
        self.x_TGIB, self.weight_GOI, self.recurrent_GOH = x_TGIB, weight_GOI, recurrent_GOH
        self.hidden = hidden = recurrent_GOH.shape[2]
        shape = (steps if is_kept else 1, len(weight_GOI))
        self.rz, self.n, self.inner = (x_TGIB.new_empty(*shape, width * hidden, x_TGIB.shape[3]) for width in (2, 1, 1))
        self.is_constant = len(x_TGIB) < steps
        if self.is_constant:
            self.from_x_n, self.from_x_rz = self._from_x(0, torch.empty_like(self.n[0]), torch.empty_like(self.rz[0]))

    def _from_x(self, step: int, n: Tensor, rz: Tensor) -> tuple[Tensor, Tensor]:
        # Products that write to a tensor are in its precision, whatever that of the training step is.
        x_GIB, weight_GOI, hidden = self.x_TGIB[step], self.weight_GOI, self.hidden
        return torch.bmm(weight_GOI[:, :hidden], x_GIB, out=n), torch.bmm(weight_GOI[:, hidden:], x_GIB, out=rz)

    def forward(self, step: int, h_GHB: Tensor, out_GHB: Tensor) -> None:
        """Write the state after a step."""
        at, hidden = step % len(self.n), self.hidden
        rz, n, inner = self.rz[at], self.n[at], self.inner[at]
        from_x_n, from_x_rz = (self.from_x_n, self.from_x_rz) if self.is_constant else self._from_x(step, n, rz)
        torch.baddbmm(from_x_rz, self.recurrent_GOH[:, : 2 * hidden], h_GHB, out=rz)
        torch.bmm(self.recurrent_GOH[:, 2 * hidden :], h_GHB, out=inner)
        torch.sigmoid(rz, out=rz)
        torch.addcmul(from_x_n, rz[:, :hidden], inner, out=n)
        torch.tanh(n, out=n)
        torch.lerp(n, h_GHB, rz[:, hidden:], out=out_GHB)

    def begin_backward(self) -> None:
        """Make room."""
        hidden = self.hidden
        self.slopes = self.n.new_empty(self.n.shape[1], 4 * hidden, self.n.shape[3])
        self.of_n, self.of_r, self.of_z, self.of_inner = self.slopes.chunk(4, dim=1)
        self.of_x_gates, self.of_h_gates = self.slopes[:, : 3 * hidden], self.slopes[:, hidden:]
        self.scratch, self.transposed_GHO = torch.empty_like(self.n[0]), self.recurrent_GOH.mT

    def backward(self, step: int, h_GHB: Tensor, gradient_GHB: Tensor, out_GHB: Tensor) -> None:
        """Write the gradients of the gates to `of_x_gates` and `of_h_gates`, and that of the state before the step.

        Args:
            step: Which.
            h_GHB: The state before it.
            gradient_GHB: Of the state after it.
            out_GHB: Where that of the state before it goes.
        """
        n, inner, scratch = self.n[step], self.inner[step], self.scratch
        r, z = self.rz[step].chunk(2, dim=1)
        torch.mul(gradient_GHB, z, out=out_GHB)
        torch.addcmul(out_GHB, out_GHB, z, value=-1, out=self.of_z).mul_(torch.sub(h_GHB, n, out=scratch))
        torch.sub(gradient_GHB, out_GHB, out=self.of_n)
        self.of_n.addcmul_(torch.mul(self.of_n, n, out=scratch), n, value=-1)
        torch.mul(self.of_n, r, out=self.of_inner)
        torch.addcmul(self.of_inner, self.of_inner, r, value=-1, out=self.of_r).mul_(inner)
        out_GHB.baddbmm_(self.transposed_GHO, self.of_h_gates)


class Lstm:
    """Long short-term memory (Hochreiter and Schmidhuber 1997) of G layers, as Gru.

    i, f, o = sigmoid(W x + U h), g = tanh(W x + U h), c' = f c + i g, h' = o tanh(c').
    """

    gates = 4

    def __init__(self, x_TGIB: Tensor, weight_GOI: Tensor, recurrent_GOH: Tensor, steps: int, is_kept: bool):
        self.x_TGIB, self.weight_GOI, self.recurrent_GOH = x_TGIB, weight_GOI, recurrent_GOH
        self.hidden = hidden = recurrent_GOH.shape[2]
        kept, shape = steps if is_kept else 1, (len(weight_GOI), hidden, x_TGIB.shape[3])
        self.activated = x_TGIB.new_empty(kept, len(weight_GOI), 4 * hidden, x_TGIB.shape[3])
        self.tanh_c = x_TGIB.new_empty(kept, *shape)
        self.c = x_TGIB.new_empty(steps + 1 if is_kept else 1, *shape)
        self.c[0].zero_()
        self.is_constant = len(x_TGIB) < steps
        self.from_x = torch.empty_like(self.activated[0]) if self.is_constant else None
        if self.from_x is not None:
            torch.bmm(weight_GOI, x_TGIB[0], out=self.from_x)

    def forward(self, step: int, h_GHB: Tensor, out_GHB: Tensor) -> None:
        """As Gru.forward."""
        at, kept = step % len(self.tanh_c), len(self.c)
        gates, tanh_c, c, before = self.activated[at], self.tanh_c[at], self.c[(step + 1) % kept], self.c[step % kept]
        from_x = torch.bmm(self.weight_GOI, self.x_TGIB[step], out=gates) if self.from_x is None else self.from_x
        torch.baddbmm(from_x, self.recurrent_GOH, h_GHB, out=gates)
        gates[:, : 3 * self.hidden].sigmoid_()
        gates[:, 3 * self.hidden :].tanh_()
        i, f, o, g = gates.chunk(4, dim=1)
        torch.mul(f, before, out=c).addcmul_(i, g)
        torch.mul(torch.tanh(c, out=tanh_c), o, out=out_GHB)

    def begin_backward(self) -> None:
        """As Gru.begin_backward."""
        self.of_x_gates = self.of_h_gates = torch.empty_like(self.activated[0])
        self.of_c, self.scratch = torch.zeros_like(self.c[0]), torch.empty_like(self.activated[0])
        self.transposed_GHO = self.recurrent_GOH.mT

    def backward(self, step: int, h_GHB: Tensor, gradient_GHB: Tensor, out_GHB: Tensor) -> None:
        """As Gru.backward."""
        gates, tanh_c, hidden, slopes = self.activated[step], self.tanh_c[step], self.hidden, self.of_h_gates
        (i, f, o, g), (of_i, of_f, of_o, of_g) = gates.chunk(4, dim=1), slopes.chunk(4, dim=1)
        through, squares = self.scratch[:, :hidden], self.scratch[:, hidden : 2 * hidden]
        torch.mul(gradient_GHB, tanh_c, out=of_o)
        torch.mul(gradient_GHB, o, out=through)
        self.of_c.add_(through.addcmul_(torch.mul(through, tanh_c, out=squares), tanh_c, value=-1))
        torch.mul(self.of_c, g, out=of_i)
        torch.mul(self.of_c, self.c[step], out=of_f)
        torch.mul(self.of_c, i, out=of_g)
        sigmoids, of_sigmoids, scratch = (one[:, : 3 * hidden] for one in (gates, slopes, self.scratch))
        torch.mul(of_sigmoids, sigmoids, out=scratch)
        torch.addcmul(scratch, scratch, sigmoids, value=-1, out=of_sigmoids)
        of_g.addcmul_(torch.mul(of_g, g, out=through), g, value=-1)
        self.of_c.mul_(f)
        torch.bmm(self.transposed_GHO, slopes, out=out_GHB)


CELLS: Mapping[str, type[Gru | Lstm]] = {"gru": Gru, "lstm": Lstm}


class Recurrence(torch.autograd.Function):
    """The states of G recurrent layers after each of T steps, from the state 0; the gradients are written by hand."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: type[Gru | Lstm],
        steps: int,
        is_last: bool,
        x_TGIB: Tensor,
        weight_GOI: Tensor,
        recurrent_GOH: Tensor,
    ) -> Tensor:
        """Give (T, G, H, B), or only the last state, (1, G, H, B)."""
        cell = kind(x_TGIB, weight_GOI, recurrent_GOH, steps, any(ctx.needs_input_grad))
        states = x_TGIB.new_empty(steps + 1, len(weight_GOI), cell.hidden, x_TGIB.shape[3])
        states[0].zero_()
        for step in range(steps):
            cell.forward(step, states[step], states[step + 1])
        ctx.cell, ctx.states = cell, states
        return states[-1:].clone() if is_last else states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TGHB: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of both weights."""
        cell, states, needs_x = ctx.cell, ctx.states, ctx.needs_input_grad[3]
        steps, x_TGIB = len(states) - 1, cell.x_TGIB
        cell.begin_backward()
        of_weight, of_recurrent = torch.zeros_like(cell.weight_GOI), torch.zeros_like(cell.recurrent_GOH)
        of_x = torch.empty_like(x_TGIB) if needs_x else None
        total = torch.zeros_like(cell.of_x_gates) if cell.is_constant else None
        buffers = [torch.empty_like(states[0]) for _ in range(2)]
        behind = gradient_TGHB[-1]
        for step in reversed(range(steps)):
            before = buffers[step % 2]
            cell.backward(step, states[step], behind, before)
            of_recurrent.baddbmm_(cell.of_h_gates, states[step].mT)
            if total is not None:
                total.add_(cell.of_x_gates)
            else:
                of_weight.baddbmm_(cell.of_x_gates, x_TGIB[step].mT)
                if of_x is not None:
                    torch.bmm(cell.weight_GOI.mT, cell.of_x_gates, out=of_x[step])
            if len(gradient_TGHB) == steps and step:
                before.add_(gradient_TGHB[step - 1])
            behind = before
        if total is not None:
            torch.bmm(total, x_TGIB[0].mT, out=of_weight)
            if of_x is not None:
                torch.bmm(cell.weight_GOI.mT, total, out=of_x[0])
        return None, None, None, of_x, of_weight, of_recurrent


def in_blocks(x_KBI: Tensor) -> Tensor:
    """At inference on a CPU each ROWS_PER_BLOCK rows as those of a model of their own, (K blocks, B / blocks, I).

    A product is rounded in another way for another number of columns. So a row has the same bits in any company.
    """
    models, rows, width = x_KBI.shape
    if torch.is_grad_enabled() or x_KBI.device.type != "cpu" or rows % ROWS_PER_BLOCK:
        return x_KBI
    return x_KBI.reshape(models * (rows // ROWS_PER_BLOCK), ROWS_PER_BLOCK, width)


def for_blocks(weight: Tensor, blocks: int) -> Tensor:
    """K models' weights for each of so many blocks of `in_blocks`."""
    return weight if len(weight) == blocks else weight.repeat_interleave(blocks // len(weight), 0)


class StackedRecurrent(nn.Module):
    """K recurrent networks of the same widths, layer on layer, with one or two directions."""

    def __init__(
        self, inputs_K: Sequence[int], widths: Sequence[int], cell: str, directions: int, generators_K: Generators
    ):
        """Draw each model's initial weights from its own generator, uniform within 1 / sqrt(width), as torch does."""
        super().__init__()
        self.kind, self.widths, self.directions = CELLS[cell], widths, directions
        self.weights, self.recurrent = nn.ParameterList(), nn.ParameterList()
        for width in widths:
            outputs, models = self.kind.gates * width, len(generators_K)
            weight_KdOI = torch.zeros(models, directions, outputs, 1 + max(inputs_K))
            recurrent_KdOH = torch.zeros(models, directions, outputs, width)
            for k, generator in enumerate(generators_K):
                for drawn in (weight_KdOI[k, ..., : 1 + inputs_K[k]], recurrent_KdOH[k]):
                    drawn.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
            self.weights.append(nn.Parameter(weight_KdOI))
            self.recurrent.append(nn.Parameter(recurrent_KdOH))
            inputs_K = [directions * width] * models

    def forward(self, x_TKIB: Tensor, steps: int, length_KB: Tensor | None = None, is_last: bool = False) -> Tensor:
        """The last layer's states after each of T steps, (T, K, d, H, B), or only those after the last, (1, ...).

        Args:
            x_TKIB: The inputs, behind a 1 in front of them; of one step, which is fed at every step, or of all.
            steps: T.
            length_KB: Of each sequence; None if all have T steps. The second direction begins at its end.
        """
        states = x_TKIB
        for index, (weight_KdOI, recurrent_KdOH) in enumerate(zip(self.weights, self.recurrent, strict=True)):
            if index:
                x_TKIB = torch.cat([torch.ones_like(x_TKIB[:, :, :1]), x_TKIB], dim=2)
            x_TGIB = x_TKIB
            if self.directions == 2:
                x_TGIB = torch.stack([x_TKIB, _reversed(x_TKIB, length_KB)], dim=2).flatten(1, 2)
            blocks = x_TKIB.shape[1]
            weights = (for_blocks(weight, blocks).flatten(0, 1) for weight in (weight_KdOI, recurrent_KdOH))
            is_top = index == len(self.widths) - 1
            of_what = (self.kind, steps, is_last and is_top)
            states_TGHB: Tensor = Recurrence.apply(*of_what, x_TGIB, *weights)  # type: ignore[no-untyped-call]
            states = states_TGHB.view(len(states_TGHB), -1, self.directions, *states_TGHB.shape[2:])
            if not is_top:
                ahead = states[:, :, 0]
                behind = [_reversed(states[:, :, 1], length_KB)] if self.directions == 2 else []
                x_TKIB = torch.cat([ahead, *behind], dim=2)
        return states


def _reversed(x_TKIB: Tensor, length_KB: Tensor | None) -> Tensor:
    """Each sequence from its end to its beginning; what is behind its end stays there."""
    if length_KB is None:
        return x_TKIB.flip(0)
    step_T11 = torch.arange(len(x_TKIB), device=x_TKIB.device)[:, None, None]
    from_TKB = torch.where(step_T11 < length_KB, length_KB - 1 - step_T11, step_T11)
    return x_TKIB.gather(0, from_TKB[:, :, None].expand_as(x_TKIB))


class SequenceReader:
    """How encoders read examples of T * F numbers, behind which other inputs may stand."""

    def __init__(self, sequence: tuple[int, int], may_miss: bool):
        """Args: may_miss: whether values may be missing."""
        self.sequence, self.may_miss = sequence, may_miss

    def __call__(self, x_KBI: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inputs of each step, a 1 and the other inputs with them, (T, K, I, B); the lengths, if they may differ.

        An example's length is the number of steps up to the last one that has a value; 1 if none has.
        """
        steps, features = self.sequence
        x_KBTF, length_KB = x_KBI[..., : steps * features].reshape(*x_KBI.shape[:2], steps, features), None
        if self.may_miss:
            is_there = ~x_KBTF.isnan()
            step_T = torch.arange(1, steps + 1, device=x_KBI.device)
            length_KB = (is_there.any(dim=-1) * step_T).amax(dim=-1).clamp(min=1)
            x_KBTF = torch.where(is_there, x_KBTF, 0.0)
        x_TKFB = x_KBTF.permute(2, 0, 3, 1)
        others_KCB = x_KBI[..., steps * features :].mT
        one_TK1B = torch.ones_like(x_TKFB[:, :, :1])
        return torch.cat([one_TK1B, x_TKFB, others_KCB.expand(steps, *others_KCB.shape)], dim=2), length_KB


class RecurrentEncoder(nn.Module):
    """Reads a sequence forwards and backwards; gives the last state of both directions."""

    def __init__(
        self, sequence: tuple[int, int], extra: int, network: NetworkConfig, may_miss: bool, generators_K: Generators
    ):
        super().__init__()
        self.read = SequenceReader(sequence, may_miss)
        inputs_K = [sequence[1] + extra] * len(generators_K)
        self.recurrent = StackedRecurrent(inputs_K, network.hidden, network.cell, 2, generators_K)
        self.outputs = 2 * network.hidden[-1]
        # Numbers of one example in the widest layer, all steps together.
        self.widest = sequence[0] * max(network.hidden)

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, T * F + extra) to (K, B, 2 H)."""
        x_TKIB, length_KB = self.read(in_blocks(x_KBI))
        states = self.recurrent(x_TKIB, len(x_TKIB), length_KB, is_last=length_KB is None)
        if length_KB is None:
            last = states[0]
        else:
            at = (length_KB - 1)[None, :, None, None].expand(1, *states.shape[1:])
            last = states.gather(0, at)[0]
        hidden_KBO: Tensor = last.flatten(1, 2).mT.reshape(*x_KBI.shape[:2], -1)
        return hidden_KBO


class StepLinear(nn.Module):
    """K linear layers that map the states of each step to the decoder's outputs."""

    def __init__(self, inputs: int, outputs: int, generators_K: Generators):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        weights = [torch.empty(outputs, inputs).uniform_(-bound, bound, generator=one) for one in generators_K]
        biases = [torch.empty(outputs, 1).uniform_(-bound, bound, generator=one) for one in generators_K]
        self.weight_KOI, self.bias_KO1 = nn.Parameter(torch.stack(weights)), nn.Parameter(torch.stack(biases))

    def forward(self, x_TKIB: Tensor, features: int) -> Tensor:
        """Map the inputs of each step to (K, B, outputs / F * T * F), of each output the T steps of F features."""
        steps, models, inputs, rows = x_TKIB.shape
        flat_KIN = x_TKIB.permute(1, 2, 0, 3).reshape(models, inputs, steps * rows)
        bias_KO1, weight_KOI = for_blocks(self.bias_KO1, models), for_blocks(self.weight_KOI, models)
        y = torch.baddbmm(bias_KO1, weight_KOI, flat_KIN).view(models, -1, features, steps, rows)
        y_KBE: Tensor = y.permute(0, 4, 1, 3, 2).reshape(models, rows, -1)
        return y_KBE


class RecurrentDecoder(nn.Module):
    """The code is the input of each step; no step sees what the one before it has given."""

    def __init__(
        self,
        inputs_K: Sequence[int],
        sequence: tuple[int, int],
        outputs: int,
        network: NetworkConfig,
        generators_K: Generators,
    ):
        """Decode K codes of inputs_K values to `outputs` numbers for each feature of each step."""
        super().__init__()
        self.sequence, widths = sequence, network.hidden[::-1]
        self.recurrent = StackedRecurrent(inputs_K, widths, network.cell, 1, generators_K)
        self.output = StepLinear(widths[-1], outputs * sequence[1], generators_K)
        self.widest = sequence[0] * max(widths)

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, outputs * T * F)."""
        steps, features = self.sequence
        # As the weights: in lower precision a code would be in another one.
        z_1KIB = in_blocks(z_KBI).mT[None].to(self.output.bias_KO1.dtype)
        x_1KIB = torch.cat([torch.ones_like(z_1KIB[:, :, :1]), z_1KIB], dim=2)
        decoded_KBE: Tensor = self.output(self.recurrent(x_1KIB, steps)[:, :, 0], features)
        return decoded_KBE.reshape(*z_KBI.shape[:2], -1)
