"""The steps of an optimizer and the weight-decay time, counted by a hook while other people's code trains."""

from __future__ import annotations

import math
from inspect import unwrap
from typing import Any

from torch.optim import SGD, Optimizer


class StepClock:
    """A counter of the steps that an optimizer takes; steps that a gradient scaler skips are not among them."""

    def __init__(self, optimizer: Any) -> None:
        # Trainers wrap optimizers in classes that need not forward hooks.
        while not isinstance(optimizer, Optimizer) or isinstance(getattr(optimizer, "optimizer", None), Optimizer):
            if not hasattr(optimizer, "optimizer"):
                raise TypeError(
                    f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}. Pass the one of the training."
                )
            optimizer = optimizer.optimizer
        self._optimizer = optimizer
        self.step: int | None = 0  # None if the steps before a training was resumed are unknown
        # Weight-decay time up to the last `end_epoch` (docs/theory.md, 4.1): the sum over the steps of learning rate /
        # (1 - momentum) times weight decay. None where it is unknown: with others than SGD, also those that inherit from it and
        # step otherwise, whose steps do not scale with the gradient, with a momentum of 1 or more, and where parameter groups
        # decay at different rates.
        self.time = 0.0 if _decay_rate(optimizer) is not None else None
        # Learning rates and weight-decay times of the steps since ``end_epoch``.
        self._rates: list[float] = []
        self._decays: list[float | None] = []
        self._hook = optimizer.register_step_post_hook(self._count)

    def go_on(self, step: int | None, time: float | None) -> None:
        """Go on from an earlier count; steps that were counted since the clock was made come on top."""
        self.step = None if self.step is None or step is None else self.step + step
        self.time = None if self.time is None or time is None else self.time + time

    def end_epoch(self) -> float:
        """Add the steps since the last call to the time, and return their mean learning rate; without steps the current one."""
        # Epoch by epoch, so that a training that was resumed in between has the same sum to the bit.
        self.time = None if self.time is None or None in self._decays else self.time + math.fsum(filter(None, self._decays))
        rates, self._rates, self._decays = self._rates, [], []
        if not rates:
            return float(self._optimizer.param_groups[0]["lr"])
        # Division rounds: without min and max, five steps at 0.05 could have a mean rate a bit above 0.05.
        return min(max(math.fsum(rates) / len(rates), min(rates)), max(rates))

    def settings(self) -> dict[str, Any]:
        """Return what sets trainings apart: the optimizer's kind, learning rate, momentum and weight decay."""
        groups = self._optimizer.param_groups
        decays = sorted({float(group.get("weight_decay", 0.0)) for group in groups} - {0.0})
        # A schedule notes the rate that it starts from, and a warm-up has set the present one to 0.
        rate = float(groups[0].get("initial_lr", groups[0]["lr"]))
        found = {"optimizer": type(self._optimizer).__name__.lower(), "learning_rate": rate}
        if "momentum" in groups[0]:
            found["momentum"] = float(groups[0]["momentum"])
        return {**found, "weight_decay": decays[0] if len(decays) == 1 else decays or 0.0}

    def stop(self) -> None:
        """Count no further steps."""
        self._hook.remove()

    def _count(self, *_: Any) -> None:
        self.step = None if self.step is None else self.step + 1
        self._rates.append(float(self._optimizer.param_groups[0]["lr"]))
        self._decays.append(_decay_rate(self._optimizer))


def _decay_rate(optimizer: Optimizer) -> float | None:
    """Return the weight-decay time of one step, of the parameters that decay; None where it is unknown."""
    # Profilers wrap the method.
    if not isinstance(optimizer, SGD) or unwrap(type(optimizer).step) is not unwrap(SGD.step):
        return None
    decaying = [group for group in optimizer.param_groups if group["weight_decay"]]
    if any(group["momentum"] >= 1 for group in decaying):
        return None
    rates = {float(group["lr"]) * group["weight_decay"] * _gain(group) for group in decaying}
    return None if len(rates) > 1 else max(rates, default=0.0)


def _gain(group: dict[str, Any]) -> float:
    """Return how many times its learning rate a constant gradient moves a parameter per step; SGD dampens momentum only."""
    return (1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1.0
