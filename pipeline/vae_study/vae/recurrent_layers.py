"""Recurrent layers of K models side by side, a step at a time, with gradients written by hand.

A sequence is (T, G, I, B): step by step, G layers side by side (K models times the directions), the minibatch last, so
that a step is a few products and passes over contiguous memory.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
