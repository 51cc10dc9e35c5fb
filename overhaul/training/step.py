"""A step of the loop as one body, from a loader's batch to the meter's sums."""

import torch
from torch import Tensor

from overhaul import schedule
from overhaul.data.transfer import to_device
from overhaul.training.build import Components
from overhaul.training.graph import graphed
from overhaul.training.metrics import Meter
from overhaul.training.optimisation import distill_weights, training_step
from overhaul.training.optimizer import begin_epoch, set_rate


class Step:
    """step(*batch) trains on a batch as the loader gives it, and counts it in the meter; begin_epoch comes before."""

    def __init__(self, of: Components, meter: Meter) -> None:
        self.of, self.meter, self.device = of, meter, of.accelerator.device
        self.networks = of.accelerator, of.model, of.teacher_forward, of.optimizer
        self.parts, methods = of.run.gradient_accumulation_steps, len(of.setup.methods)
        self.weight = torch.zeros(methods if methods > 1 else (), device=self.device)
        self.take = graphed(self.body, of.run.compile)
        self.moves, self.done, self.steps = schedule.moves(of.setup), 0, len(of.train_loader)
        self.how = self.parts, of.setup.label_weight, of.setup.label_smoothing, of.setup.clip_grad

    def begin_epoch(self, epoch: int, step: int) -> float:
        """See optimizer.begin_epoch."""
        self.done = epoch * self.steps + step
        weight = distill_weights(self.of.method, self.of.setup, epoch, self.of.share // self.parts)
        self.weight.copy_(torch.as_tensor(weight))
        return begin_epoch(self.of.optimizer, self.of.setup, epoch, step, self.steps)

    def __call__(self, *batch: Tensor) -> None:
        if self.moves:
            set_rate(self.of.optimizer, schedule.rate(self.of.setup, self.done, self.steps))
        self.done += 1
        self.take(*self.on_device(*batch))

    def body(self, *batch: Tensor) -> None:
        """The step of a batch on the device, which reads no value from there."""
        images, labels = self.normalized(*batch)
        logits, *losses = training_step(*self.networks, images, labels, self.weight, *self.how)
        self.meter.add(logits, labels, *losses)

    def on_device(self, *batch: Tensor) -> list[Tensor]:
        return [to_device(each, self.device) for each in batch]

    def normalized(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels as the networks take them, of a batch on the device."""
        resident = self.of.train_loader.resident
        images, labels = resident.make(*batch) if resident else batch
        return self.of.normalize(images), labels
