"""Ray Tune's view of a worker: it trains what its orders say, for about a second, and reports."""

from typing import Any

import torch
from ray import tune

from pipeline.secrets import guard_process
from pipeline.study.draining import is_leaving
from pipeline.study.mailbox import collect
from pipeline.study.memory import cap_memory
from pipeline.study.messages import Assignment, Orders, WorkerReport
from pipeline.study.pack import Pack


class VaeWorker(tune.Trainable):
    """One device's worker. Whatever goes wrong with a task becomes a report; only a dying process reaches Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        """A fresh worker: one thread, so that equal seeds give equal bits, and its share of a GPU's memory."""
        guard_process()
        torch.set_num_threads(1)
        self.assignment: Assignment = config["assignment"]
        self.pack = Pack(self.assignment)
        cap_memory(self.pack.spec.resources, self.assignment.is_alone)

    def step(self) -> dict[str, Any]:
        """Some epochs of all that it has, and what became of them."""
        orders = collect(self.assignment.mailbox)
        if orders.is_over:
            return {"report": WorkerReport(seats=0), "done": True}
        if is_leaving():
            # What would have joined has not begun, and the driver gives it to others as well.
            self.pack.obey(Orders(stop=orders.stop))
            return {"report": WorkerReport(seats=0, tasks=self.pack.hand_over(), is_leaving=True), "done": True}
        self.pack.obey(orders)
        return {"report": WorkerReport(seats=self.pack.seats, tasks=self.pack.advance()), "done": False}

    def cleanup(self) -> None:
        """The study ends, or this worker does: what is under way can be gone on with."""
        self.pack.save()
