"""A batch of K models trained at once as one tensor program; K = 1 is the plain case."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.data import Dataset
from vae_study.data.pixels import PixelBytes
from vae_study.data.windows import Windows
from vae_study.vae.device import copy_from_host, on_host, training_in
from vae_study.vae.evaluation import Measurement, RawMeasurement, measure, measurements, metrics_of
from vae_study.vae.families.base import Family
from vae_study.vae.fast_step.step import covers, fast_step
from vae_study.vae.gpu.captured_step import CapturedStep, pays
from vae_study.vae.inference import Examples
from vae_study.vae.networks import shape_of
from vae_study.vae.objective import GradientStep, Losses, Objective, StepInputs, penalty_weights, train_metrics
from vae_study.vae.optimizer import StackedAdam, autograd_step, learning_rate_factors
from vae_study.vae.stacking import (
    LASTING_STREAMS,
    ModelSetup,
    Progress,
    append_models,
    chunks_of,
    compatibility_key,
    keep_models,
    own_part,
    padded_latent_dim,
    require_same_kind,
    stack_models,
)

# Most steps whose noise is drawn in one call, and most codes of a model in it: few calls, and little memory.
STEPS_PER_DRAW, CODES_PER_DRAW = 64, 2**18


class ModelBatch:
    """K models on one data set, trained side by side. No model can change another's numbers.

    All models have the same `compatibility_key`. Latent size, objective, optimizer settings, budget, seed and epoch are
    each model's own. Between two epochs models join and leave; an empty batch trains and measures nothing.

    On a CPU with one thread, a model's weights, metrics and scores are the same bits alone and in any batch if
    - the latent sizes are padded to the same `latent_capacity`,
    - the minibatch is a multiple of 32 examples,
    - the hidden widths are multiples of 4, with batch normalization of 16, and
    - the network is not `conv`: grouped convolutions have other kernels for one model than for several.
    Otherwise the numbers are the same up to rounding. A padded model pays for the latent layers of the capacity.

    Attributes:
        setups: What each model is made from.
        model: The stacked models; their parameters are views of the optimizer's buffers.
        progress_K: How far each one is.
        chunks: The same models, as many at a time as the cache takes.
    """

    def __init__(
        self,
        setups: Sequence[ModelSetup],
        data: Dataset,
        score: str = "elbo",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        latent_capacity: int | None = None,
        beside: "ModelBatch | None" = None,
    ):
        """Put data, parameters and schedules on the device.

        Args:
            setups: The first K models, one at least.
            data: Shared by all models; it stays on the device.
            score: The anomaly score whose AUROC is measured.
            device: Where to train.
            dtype: Of data, parameters and noise.
            latent_capacity: The largest latent size that a model may ever have; by default that of the first models.
            beside: Another batch on the same data and device, whose copy of the rows this one takes as well.

        Raises:
            ValueError: The models do not fit together.
        """
        self.data, self.score, self.device, self.dtype = data, score, torch.device(device), dtype
        self.training, self.key = setups[0].config.training, compatibility_key(setups[0].config)
        self.latent_capacity = padded_latent_dim(latent_capacity, [setup.config.model for setup in setups])
        for setup in setups:
            self._require_fits(setup)
        self.shape = shape_of(data)
        rows = len(data.splits["train"].x_ND)
        self.batch_size = min(self.training.batch_size, rows)
        self.steps_per_epoch = rows // self.batch_size
        self._start(setups)
        self.examples = {name: self._examples(name, beside) for name in data.splits}
        told_NC = self.model.told(data.condition("train"))
        self._told = None if told_NC is None else Examples(self.examples["train"].x_ND, self.tensor(told_NC))

    def _start(self, setups: Sequence[ModelSetup]) -> None:
        """Start with these models and no others."""
        self.setups: list[ModelSetup] = []
        self.progress_K: list[Progress] = []
        self.model = self._stack(setups)
        self.adam = StackedAdam(self.model, [setup.config.training for setup in setups])
        self.objective = Objective([], self.tensor([]))
        self._add(setups)

    @property
    def epochs_K(self) -> list[int]:
        """How many epochs each model has done."""
        return [progress.epoch for progress in self.progress_K]

    @property
    def epoch(self) -> int:
        """The epochs done, if all models are at the same epoch."""
        (epoch,) = set(self.epochs_K)
        return epoch

    def join(self, setup: ModelSetup, state: Mapping[str, Tensor] | None = None) -> None:
        """Append a model. Only between two epochs.

        Args:
            setup: Compatible with the batch, with no more latent dimensions than its capacity.
            state: What `state` returned for it in any batch; by default its training starts.

        Raises:
            ValueError: It does not fit, or the state is not its own; the batch is as it was.
        """
        self._require_fits(setup)
        rows = self._stack([setup])
        # The optimizer first: if memory runs out there, nothing has changed yet.
        self.adam.append(rows, [setup.config.training])
        append_models(self.model, rows)
        self._add([setup])
        try:
            if state is not None:
                self.restore(len(self.setups) - 1, state)
        except ValueError:
            self.leave(len(self.setups) - 1)
            raise

    def leave(self, k: int) -> None:
        """Take a model out, also a diverged one; those behind it move up. Only between two epochs."""
        stay = [other for other in range(len(self.setups)) if other != k]
        keep_models(self.model, stay)
        self.adam.keep(stay)
        self.setups = [self.setups[other] for other in stay]
        self.progress_K = [self.progress_K[other] for other in stay]
        self._lay_out(self.objective.multiplier_K[stay])

    def alone(self, k: int) -> "ModelBatch":
        """A copy of one model as a batch of its own on the same data, to measure or train on its own."""
        apart = copy.copy(self)
        apart._start([self.setups[k]])
        apart.restore(0, self.state(k))
        return apart

    def state(self, k: int) -> dict[str, Tensor]:
        """A copy on the host of all that a model's further training depends on: the same tensors in any batch.

        Returns:
            By name, without the dimension of models and without padding: `model/...` (parameters and running
            statistics), Adam's `mean/...` and `square/...` of each parameter, the Lagrange `multiplier`, the states of
            the generators `random/...` (bytes), and the number of `epoch` and `steps` done.
        """
        views = self._own(k)
        copies = (row.clone(memory_format=torch.contiguous_format) for row in on_host([*views.values()]))
        return {**dict(zip(views, copies, strict=True)), **self._counters(k)}

    def restore(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Set one model back to a state, taken with the same configuration and data.

        On the same kind of device, training from there gives the same bits as without the interruption. The other
        models are not touched, and may be at other epochs.

        Args:
            k: Which model.
            state: What `state` returned.

        Raises:
            ValueError: It is the state of another model, of another budget, or of a generator on another kind of
                device; the batch is as it was.
        """
        own = self._own(k)
        require_same_kind({**own, **self._counters(k)}, state)
        epoch, steps = int(state["epoch"]), int(state["steps"])
        if steps != epoch * self.steps_per_epoch or epoch > self.setups[k].config.training.epochs:
            raise ValueError(
                f"{steps} steps in {epoch} epochs: the state of a training with another budget or batch size"
            )
        self.progress_K[k].epoch = epoch
        for name, generator in self._random(k).items():
            generator.set_state(state[name])
        copy_from_host([*own.values()], [state[name] for name in own])

    def _own(self, k: int) -> dict[str, Tensor]:
        """One model's tensors by name, as views without padding."""
        stacked = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        names = [name for name, _ in self.model.named_parameters()]
        for name, (mean, square) in zip(names, self.adam.moments(), strict=True):
            stacked |= {f"mean/{name}": mean, f"square/{name}": square}
        stacked["multiplier"] = self.objective.multiplier_K
        own = own_part(stacked, k, self.setups[k].config.model, self.model.shape)
        return {name: row.detach() for name, row in own.items()}

    def _counters(self, k: int) -> dict[str, Tensor]:
        """How far one model is, and where its generators are."""
        random = {name: generator.get_state() for name, generator in self._random(k).items()}
        epoch = self.epochs_K[k]
        return {**random, "epoch": torch.tensor(epoch), "steps": torch.tensor(epoch * self.steps_per_epoch)}

    def _random(self, k: int) -> dict[str, torch.Generator]:
        return {f"random/{stream}": generator for stream, generator in self.progress_K[k].generators.items()}

    def _require_fits(self, setup: ModelSetup) -> None:
        latent, key = setup.config.model.latent_dim, compatibility_key(setup.config)
        if latent > self.latent_capacity:
            raise ValueError(f"{latent} latent dimensions, where the batch is made for {self.latent_capacity}")
        if key != self.key:
            raise ValueError(f"a model of another shape: {key}, expected {self.key}")

    def _stack(self, setups: Sequence[ModelSetup]) -> Family:
        configs, weights = [one.config.model for one in setups], [one.generator("weights") for one in setups]
        rows = stack_models(configs, self.shape, weights, self.latent_capacity)
        return rows.to(self.device, self.dtype)

    def _add(self, setups: Sequence[ModelSetup]) -> None:
        """Start the training of new models, whose rows are stacked already."""
        for setup in setups:
            training = setup.config.training
            steps = training.epochs * self.steps_per_epoch
            rate_T = training.learning_rate * learning_rate_factors(training.learning_rate_schedule, steps)
            generators = {stream: setup.generator(stream, self.device) for stream in LASTING_STREAMS}
            weight_T = penalty_weights(setup.config.objective, steps)
            self.progress_K.append(Progress(np.stack([weight_T, rate_T]), generators))
        self.setups = [*self.setups, *setups]
        self._lay_out(torch.cat([self.objective.multiplier_K, self.tensor([0.0] * len(setups))]))

    def _lay_out(self, multiplier_K: Tensor) -> None:
        """Make all that holds views of the models' rows again, after models have joined or left."""
        configs = [setup.config.objective for setup in self.setups]
        self.objective = Objective(configs, multiplier_K, multiplier_K, len(self.data.splits["train"].x_ND))
        self.chunks = chunks_of(self.model, self.batch_size)
        self._captured: CapturedStep | None = None
        self.gradient_step: GradientStep | None = None
        precision = self.training.precision
        if self.setups and precision != "bf16" and covers(self.model):
            self.gradient_step = fast_step(self.model, self.objective, self.adam.gradients, self.batch_size)
        elif self.setups:
            self.gradient_step = autograd_step(self.chunks, self.objective, self.adam.gradients, precision)

    def tensor(self, values: object) -> Tensor:
        """Values on the batch's device, in its dtype."""
        return torch.as_tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def index(self, rows: NDArray[Any]) -> Tensor:
        """Row indices, or a mask, on the batch's device."""
        return torch.as_tensor(rows, device=self.device)

    def generators(self, stream: str) -> list[torch.Generator]:
        """Every model's generator of one stream, at its beginning."""
        return [setup.generator(stream, self.device) for setup in self.setups]

    def _examples(self, split: str, beside: "ModelBatch | None") -> Examples:
        condition_NC = self.tensor(self.data.condition(split)) if self.model.is_conditional else None
        return Examples(self._features(split) if beside is None else beside.examples[split].x_ND, condition_NC)

    def _features(self, split: str) -> Tensor | Windows | PixelBytes:
        x_ND = self.data.splits[split].x_ND
        if isinstance(x_ND, Windows):
            length_N = None if x_ND.length_N is None else self.index(x_ND.length_N)
            return Windows(self.tensor(x_ND.rows_RF), self.index(x_ND.start_N), x_ND.steps, length_N)
        if isinstance(x_ND, PixelBytes):
            return PixelBytes(self.index(x_ND.byte_ND), self.tensor(x_ND.value_V))
        return self.tensor(x_ND)

    def train_epoch(self) -> list[dict[str, float]]:
        """Train every model for one epoch and measure it on the validation rows.

        Returns:
            The epoch's metrics of each model: `train/...` averaged over the epoch's minibatches, `val/...` after it,
            all in nats per example; `time/epoch_seconds`, its share of the batch's time.
            The values of a diverged model are not finite.
        """
        if not self.setups:
            return []
        started = time.perf_counter()
        for chunk in self.chunks:
            chunk.model.train()
        weight_SK, rows_SKB = self._begin_epoch(), self._minibatches()
        with training_in(self.training.precision):
            sums_MK = self._take_steps(rows_SKB, weight_SK)
        for progress in self.progress_K:
            progress.epoch += 1
        means_MK, measurements = self.measure_beside("validation", sums_MK / self.steps_per_epoch)
        means_KM = means_MK.double().numpy().T.tolist()
        measured = [metrics_of(measurement, "val", self.score) for measurement in measurements]
        seconds = (time.perf_counter() - started) / len(self.setups)
        own = zip(self.objective.configs, means_KM, strict=True)
        trained = [train_metrics(config, means_M, self.model.has_rate, self.model.own_terms) for config, means_M in own]
        return [{**a, **b, "time/epoch_seconds": seconds} for a, b in zip(trained, measured, strict=True)]

    def _take_steps(self, rows_SKB: Tensor, weight_SK: Tensor) -> Tensor:
        """Take an epoch's steps; return the sums of their `Losses.beside`, (M, K)."""
        generators_K, captured = self._lasting("batches"), self._captured
        sums_MK = weight_SK.new_zeros(Losses.measured(self.model.own_terms), len(self.setups))
        if captured:
            captured.begin(rows_SKB, weight_SK)
        at_once = min(STEPS_PER_DRAW, max(1, CODES_PER_DRAW // (self.batch_size * self.model.places)))
        for step in range(self.steps_per_epoch):
            if step % at_once == 0:
                noise_SKBZ = self.model.noise(min(at_once, self.steps_per_epoch - step), self.batch_size, generators_K)
                if step == 0 and captured is None and self._capture_pays():
                    buffers = (self.objective.multiplier_K, *self.model.buffers())
                    captured = CapturedStep(self._step, self.adam, buffers, rows_SKB, weight_SK, noise_SKBZ, sums_MK)
                    captured.begin(rows_SKB, weight_SK)
                    self._captured = captured
                if captured:
                    captured.take_noise(noise_SKBZ)
            if captured:
                captured(self._corruption())
                continue
            noise_KBZ, weight_K = noise_SKBZ[step % at_once], weight_SK[step]
            losses = self._step(rows_SKB[step], noise_KBZ, weight_K, self._corruption(), partial(self.adam.step, step))
            # Step by step: how a sum over steps is rounded depends on how many models stand side by side.
            sums_MK += losses.beside(weight_K)
        return captured.sums_MK if captured else sums_MK

    def _capture_pays(self) -> bool:
        setups = zip(self.setups, self.epochs_K, strict=True)
        epochs = min(setup.config.training.epochs - done for setup, done in setups)
        return pays(self.device, epochs * self.steps_per_epoch, self.steps_per_epoch)

    def _begin_epoch(self) -> Tensor:
        """Give the optimizer each model's learning rates of the epoch; return the KL weights, (S, K)."""
        budgets_K = [setup.config.training.epochs for setup in self.setups]
        assert all(np.less(self.epochs_K, budgets_K)), "a model has spent its budget: it has to leave first"
        steps_K = [epoch * self.steps_per_epoch for epoch in self.epochs_K]
        schedules = zip(steps_K, self.progress_K, strict=True)
        cuts_K = [progress.schedule_2T[:, done : done + self.steps_per_epoch] for done, progress in schedules]
        weight_SK, rate_SK = np.stack(cuts_K, axis=2)
        return self.adam.begin(steps_K, rate_SK, weight_SK)[0]

    def _lasting(self, stream: str) -> list[torch.Generator]:
        """Every model's generator of one lasting stream, in its present state."""
        return [progress.generators[stream] for progress in self.progress_K]

    def _minibatches(self) -> Tensor:
        """Indices of training rows, shuffled for each model, minibatch by minibatch, (S, K, B)."""
        rows, generators = len(self.examples["train"].x_ND), self._lasting("batches")
        order_KN = torch.stack([torch.randperm(rows, generator=one, device=self.device) for one in generators])
        used_KN = order_KN[:, : self.steps_per_epoch * self.batch_size].contiguous()
        return used_KN.view(-1, self.steps_per_epoch, self.batch_size).transpose(0, 1).contiguous()

    def _step(
        self,
        rows_KB: Tensor,
        noise_KBZ: Tensor,
        weight_K: Tensor,
        corruption_KBD: Tensor | None,
        move: Callable[[], None],
    ) -> Losses:
        """One step of every model; `move` is the optimizer's."""
        x_KBD, condition_KBC = (self._told or self.examples["train"]).at(rows_KB)
        seen_KBD = x_KBD if corruption_KBD is None else self.model.corrupt(x_KBD, corruption_KBD)
        assert self.gradient_step is not None
        losses = self.gradient_step(StepInputs(seen_KBD, x_KBD, condition_KBC, noise_KBZ, weight_K))
        move()
        self.objective.ascend(losses.kl_K, weight_K)
        return losses

    def _corruption(self) -> Tensor | None:
        """The noise that corrupts the next minibatch; None for a family that corrupts nothing."""
        if not self.model.corrupts:
            return None
        size = (self.batch_size, self.model.shape.features)
        noise = [
            torch.randn(size, generator=generator, device=self.device, dtype=self.dtype)
            for generator in self._lasting("corruption")
        ]
        return torch.stack(noise)

    def measure(self, split: str) -> list[Measurement]:
        """Every model's Measurement of one split."""
        if not self.setups:
            return []
        return self.measure_beside(split, self.objective.multiplier_K)[1]

    def measure_beside(self, split: str, beside: Tensor) -> tuple[Tensor, list[Measurement]]:
        """Measure a split, and bring another tensor of the device to the host in the same copy."""
        generators_K, of_split = self.generators("evaluation"), self.data.splits[split]
        raw = [measure(model, self.examples[split], generators_K[own]) for own, model in self.chunks]
        beside, *parts = on_host([beside, *(part for one in raw for part in one)])
        width = len(RawMeasurement._fields)
        found = [RawMeasurement(*parts[start : start + width]) for start in range(0, len(parts), width)]
        every = zip(self.chunks, found, strict=True)
        return beside, [one for chunk, own in every for one in measurements(chunk.model, own, of_split)]
