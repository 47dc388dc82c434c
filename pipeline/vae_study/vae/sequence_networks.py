"""Encoders and decoders of sequences, K models side by side: recurrent, and of dilated causal convolutions.

A window of T steps of F features is one example of T * F numbers, step by step. Where a value is missing (NaN) a
network reads 0. It reads an example up to the last step that has a value; what is behind changes nothing.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_study.config.model import NetworkConfig
from vae_study.vae.kernels import ROWS_PER_BLOCK
from vae_study.vae.recurrent_layers import CELLS, Recurrence

Generators = Sequence[torch.Generator]


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
        """The inputs of each step behind a 1, the other inputs with them, (T, K, I, B); lengths, if they may differ."""
        steps, features = self.sequence
        x_KBTF, length_KB = x_KBI[..., : steps * features].reshape(*x_KBI.shape[:2], steps, features), None
        if self.may_miss:
            length_KB = lengths_of(x_KBTF)
            x_KBTF = torch.where(x_KBTF.isnan(), 0.0, x_KBTF)
        x_TKFB = x_KBTF.permute(2, 0, 3, 1)
        others_KCB = x_KBI[..., steps * features :].mT
        one_TK1B = torch.ones_like(x_TKFB[:, :, :1])
        return torch.cat([one_TK1B, x_TKFB, others_KCB.expand(steps, *others_KCB.shape)], dim=2), length_KB


def lengths_of(x_KBTF: Tensor) -> Tensor:
    """The number of each example's steps up to the last one that has a value, (K, B); 1 if none has."""
    step_T = torch.arange(1, x_KBTF.shape[2] + 1, device=x_KBTF.device)
    lengths_KB: Tensor = (~x_KBTF.isnan().all(dim=-1) * step_T).amax(dim=-1).clamp(min=1)
    return lengths_KB


class RecurrentEncoder(nn.Module):
    """Reads a sequence forwards and backwards; gives the last state of both directions, or those of each step."""

    def __init__(
        self,
        sequence: tuple[int, int],
        extra: int,
        network: NetworkConfig,
        may_miss: bool,
        generators_K: Generators,
        is_by_step: bool = False,
    ):
        super().__init__()
        self.is_by_step = is_by_step
        self.read = SequenceReader(sequence, may_miss)
        inputs_K = [sequence[1] + extra] * len(generators_K)
        self.recurrent = StackedRecurrent(inputs_K, network.hidden, network.cell, 2, generators_K)
        self.outputs = 2 * network.hidden[-1]
        # Numbers of one example in the widest layer, all steps together.
        self.widest = sequence[0] * max(network.hidden)

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, T * F + extra) to (K, B, 2 H), or by step to (K, B T, 2 H)."""
        x_TKIB, length_KB = self.read(in_blocks(x_KBI))
        is_last = length_KB is None and not self.is_by_step
        states = self.recurrent(x_TKIB, len(x_TKIB), length_KB, is_last=is_last).flatten(2, 3)
        if self.is_by_step:
            states = _in_time(states, length_KB)
            by_step_KBO: Tensor = states.permute(1, 3, 0, 2).reshape(len(x_KBI), -1, self.outputs)
            return by_step_KBO
        last = states[0] if length_KB is None else _at_step(states, length_KB - 1)
        hidden_KBO: Tensor = last.mT.reshape(*x_KBI.shape[:2], -1)
        return hidden_KBO


def _in_time(states_TKHB: Tensor, length_KB: Tensor | None) -> Tensor:
    """The states of both directions after the same step, (T, K, 2 H, B)."""
    ahead, behind = states_TKHB.chunk(2, dim=2)
    return torch.cat([ahead, _reversed(behind, length_KB)], dim=2)


def _at_step(states_TKHB: Tensor, step_KB: Tensor) -> Tensor:
    at = step_KB[None, :, None].expand(1, *states_TKHB.shape[1:])
    return states_TKHB.gather(0, at)[0]


class StepLinear(nn.Module):
    """K linear layers that map the states of each step to the decoder's outputs."""

    def __init__(self, inputs: int, outputs: int, generators_K: Generators):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        weights = [torch.empty(outputs, inputs).uniform_(-bound, bound, generator=one) for one in generators_K]
        biases = [torch.empty(outputs, 1).uniform_(-bound, bound, generator=one) for one in generators_K]
        self.weight_KOI, self.bias_KO1 = nn.Parameter(torch.stack(weights)), nn.Parameter(torch.stack(biases))

    def forward(self, x_KIN: Tensor, sequence: tuple[int, int], rows: int) -> Tensor:
        """Map the inputs of each step and row (N = T B) to (K, B, E), for each output the T steps of F features."""
        models, (steps, features) = len(x_KIN), sequence
        bias_KO1, weight_KOI = for_blocks(self.bias_KO1, models), for_blocks(self.weight_KOI, models)
        y = torch.baddbmm(bias_KO1, weight_KOI, x_KIN).view(models, -1, features, steps, rows)
        y_KBE: Tensor = y.permute(0, 4, 1, 3, 2).reshape(models, rows, -1)
        return y_KBE


class RecurrentDecoder(nn.Module):
    """The code, or its own code, is the input of each step; no step sees what the one before it has given."""

    def __init__(
        self,
        inputs_K: Sequence[int],
        sequence: tuple[int, int],
        outputs: int,
        network: NetworkConfig,
        generators_K: Generators,
        is_by_step: bool = False,
    ):
        """Decode K codes of inputs_K values to `outputs` numbers for each feature of each step."""
        super().__init__()
        self.is_by_step, self.sequence, widths = is_by_step, sequence, network.hidden[::-1]
        self.recurrent = StackedRecurrent(inputs_K, widths, network.cell, 1, generators_K)
        self.output = StepLinear(widths[-1], outputs * sequence[1], generators_K)
        self.widest = sequence[0] * max(widths)

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Map (K, B, I), or by step (K, B T, I), to (K, B, outputs * T * F)."""
        # As the weights: in lower precision a code would be in another one.
        x_TKIB = _steps_of(z_KBI, self.sequence[0] if self.is_by_step else 1).to(self.output.bias_KO1.dtype)
        x_TKIB = torch.cat([torch.ones_like(x_TKIB[:, :, :1]), x_TKIB], dim=2)
        states_TKHB = self.recurrent(x_TKIB, self.sequence[0])[:, :, 0]
        rows = states_TKHB.shape[3]
        decoded_KBE: Tensor = self.output(states_TKHB.permute(1, 2, 0, 3).flatten(2), self.sequence, rows)
        return decoded_KBE.reshape(len(z_KBI), -1, decoded_KBE.shape[2])


def _steps_of(z_KRI: Tensor, steps: int) -> Tensor:
    """Rows (K, B T, I) as steps of blocks, (T, K, I, B)."""
    models, rows, width = z_KRI.shape
    by_block = in_blocks(z_KRI.reshape(models, rows // steps, steps * width))
    return by_block.view(*by_block.shape[:2], steps, width).permute(2, 0, 3, 1)


# A convolution takes so many steps, each as far before the next one as its dilation.
TAPS = 3
# Of sines and cosines that tell a decoder of convolutions where it is, in steps.
PERIODS = tuple(4.0 * 2**octave for octave in range(8))


class CausalConvolutions(nn.Module):
    """K stacks of convolutions over time that see no later step, dilated by 1, 2, 4, ... (van den Oord et al. 2016).

    A layer with as many outputs as inputs adds its inputs (Bai et al. 2018).
    """

    def __init__(
        self,
        inputs_K: Sequence[int],
        channels: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        generators_K: Generators,
    ):
        super().__init__()
        self.activation = activation
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for outputs in channels:
            weight_K3OI = torch.zeros(len(generators_K), TAPS, outputs, max(inputs_K))
            bias_KO1 = torch.zeros(len(generators_K), outputs, 1)
            for k, (inputs, generator) in enumerate(zip(inputs_K, generators_K, strict=True)):
                bound = 1 / math.sqrt(TAPS * inputs)
                weight_K3OI[k, ..., :inputs].uniform_(-bound, bound, generator=generator)
                bias_KO1[k].uniform_(-bound, bound, generator=generator)
            self.weights.append(nn.Parameter(weight_K3OI))
            self.biases.append(nn.Parameter(bias_KO1))
            inputs_K = [outputs] * len(generators_K)

    def forward(self, x_KIN: Tensor, rows: int) -> Tensor:
        """Map the inputs of each step and row (N = T B, step by step) to (K, O, N)."""
        for index, (weight_K3OI, bias_KO1) in enumerate(zip(self.weights, self.biases, strict=True)):
            earlier = [_later(x_KIN, tap * 2**index * rows) for tap in range(TAPS)]
            weight_KOJ = for_blocks(weight_K3OI, len(x_KIN)).transpose(1, 2).flatten(2)
            bias_KO1 = for_blocks(bias_KO1, len(x_KIN))
            y_KON = self.activation(torch.baddbmm(bias_KO1, weight_KOJ, torch.cat(earlier, dim=1)))
            x_KIN = x_KIN + y_KON if x_KIN.shape == y_KON.shape else y_KON
        return x_KIN


def _later(x_KIN: Tensor, by: int) -> Tensor:
    """Moved to later columns, with zeros in front."""
    by = min(by, x_KIN.shape[2])
    return functional.pad(x_KIN[..., : x_KIN.shape[2] - by], (by, 0)) if by else x_KIN


class TemporalConvEncoder(nn.Module):
    """Causal convolutions: at the last step with a value, and the mean over the steps up to it; or of each step."""

    def __init__(
        self,
        sequence: tuple[int, int],
        extra: int,
        channels: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        may_miss: bool,
        generators_K: Generators,
        is_by_step: bool = False,
    ):
        super().__init__()
        self.read, self.is_by_step = SequenceReader(sequence, may_miss), is_by_step
        inputs_K = [1 + sequence[1] + extra] * len(generators_K)
        self.convolutions = CausalConvolutions(inputs_K, channels, activation, generators_K)
        self.outputs = channels[-1] if is_by_step else 2 * channels[-1]
        self.widest = sequence[0] * TAPS * max(channels)

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, T * F + extra) to (K, B, 2 C), or by step to (K, B T, C)."""
        x_TKIB, length_KB = self.read(in_blocks(x_KBI))
        steps, rows = len(x_TKIB), x_TKIB.shape[3]
        y_KOTB = self.convolutions(x_TKIB.permute(1, 2, 0, 3).flatten(2), rows).unflatten(2, (steps, rows))
        if self.is_by_step:
            by_step_KBO: Tensor = y_KOTB.permute(0, 3, 2, 1).reshape(len(x_KBI), -1, self.outputs)
            return by_step_KBO
        if length_KB is None:
            last_KOB, mean_KOB = y_KOTB[:, :, -1], y_KOTB.mean(dim=2)
        else:
            length_K11B = length_KB[:, None, None]
            last_KOB = y_KOTB.gather(2, (length_K11B - 1).expand(*y_KOTB.shape[:2], 1, rows))[:, :, 0]
            step_T1 = torch.arange(steps, device=x_KBI.device)[:, None]
            mean_KOB = (y_KOTB * (step_T1 < length_K11B)).sum(dim=2) / length_K11B[:, 0]
        both_KBO: Tensor = torch.cat([last_KOB, mean_KOB], dim=1).mT.reshape(*x_KBI.shape[:2], -1)
        return both_KBO


class TemporalConvDecoder(nn.Module):
    """Causal convolutions of the code, which is an input of each step, and of sines and cosines of its number."""

    place_KPT: Tensor

    def __init__(
        self,
        inputs_K: Sequence[int],
        sequence: tuple[int, int],
        outputs: int,
        channels: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        generators_K: Generators,
        is_by_step: bool = False,
    ):
        super().__init__()
        self.sequence, self.is_by_step = sequence, is_by_step
        angle_PT = 2 * math.pi * torch.arange(sequence[0]) / torch.tensor(PERIODS)[:, None]
        place_PT = torch.cat([angle_PT.sin(), angle_PT.cos()])
        self.register_buffer("place_KPT", place_PT.repeat(len(inputs_K), 1, 1), persistent=False)
        joined_K = [len(place_PT) + inputs for inputs in inputs_K]
        self.convolutions = CausalConvolutions(joined_K, channels, activation, generators_K)
        self.output = StepLinear(channels[-1], outputs * sequence[1], generators_K)
        self.widest = sequence[0] * TAPS * max(max(joined_K), *channels)

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Map (K, B, I), or by step (K, B T, I), to (K, B, outputs * T * F)."""
        steps = self.sequence[0]
        z_KITB = _steps_of(z_KBI, steps if self.is_by_step else 1).permute(1, 2, 0, 3)
        models, _, _, rows = z_KITB.shape
        place_KPT = for_blocks(self.place_KPT, models)
        x = [place_KPT[..., None].expand(-1, -1, -1, rows), z_KITB.expand(-1, -1, steps, -1)]
        states_KHN = self.convolutions(torch.cat(x, dim=1).flatten(2), rows)
        decoded_KBE: Tensor = self.output(states_KHN, self.sequence, rows)
        return decoded_KBE.reshape(len(z_KBI), -1, decoded_KBE.shape[2])
