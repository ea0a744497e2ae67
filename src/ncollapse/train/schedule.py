"""The learning rate of every epoch, the weight-decay time, and the epochs worth measuring."""

import math

from ncollapse.recipes.training import TrainConfig

# The ratio between measuring epochs. 350 epochs then give the list that the field uses (ratio 350**(1/66), rounded);
# only ratios within 1e-5 of this one do, a test holds it.
_EPOCH_RATIO = 1.09277


def lr_at(config: TrainConfig, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 1.

    ``learning_rate * gamma ** (milestones passed)``, or the cosine. With 350 epochs and the default milestones, epochs 1 to 116
    have the full rate, 117 to 233 a tenth, 234 to 350 a hundredth.
    """
    if config.schedule == "cosine":
        share = (epoch - 1) / max(1, config.epochs - 1)
        return config.learning_rate * (config.gamma + (1 - config.gamma) * (1 + math.cos(math.pi * share)) / 2)
    # 1e-9: 0.29 of 100 epochs must be 29, not the 28 that binary fractions make of it. max: a run of one or two
    # epochs, as in smoke tests, must not begin at a hundredth of the rate.
    ends = (max(1, math.floor(fraction * config.epochs + 1e-9)) for fraction in config.milestones)
    return config.learning_rate * config.gamma ** sum(end < epoch for end in ends)


def weight_decay_time(config: TrainConfig, steps_per_epoch: int, epochs: int | None = None) -> float:
    r"""Return the weight-decay time of a run, which tells how far it is into the terminal phase better than epochs or accuracy.

    .. math:: \tau = \sum_t \frac{\eta_t}{1 - \mu}\,\lambda

    over the steps t taken, with learning rate :math:`\eta`, momentum :math:`\mu` and weight decay :math:`\lambda`.
    Dimensionless; weights that no gradient holds have shrunk by about :math:`e^{-\tau}`. Collapse is deep from 4 to 8 on. With
    ``sgdw`` the decay does not pass through the momentum, and :math:`\mu` is 0 in this formula. nan with Adam, AdamW and
    L-BFGS, whose steps do not scale with the gradient.

    Args:
        steps_per_epoch: Batches in an epoch, ``len(Batches(data, config.batch_size))``.
        epochs: Epochs that have passed; None takes all of the run.

    Example:
        >>> round(weight_decay_time(TrainConfig(), steps_per_epoch=14), 2)
        7.77
    """
    if config.optimizer not in {"sgd", "sgdw"}:
        return math.nan
    momentum = config.momentum if config.optimizer == "sgd" else 0.0
    passed = config.epochs if epochs is None else epochs
    rates = math.fsum(lr_at(config, epoch) for epoch in range(1, passed + 1))
    return rates * steps_per_epoch * config.weight_decay / (1 - momentum)


def row_sum_factor(config: TrainConfig, steps_per_epoch: int, epochs: int | None = None) -> float:
    r"""Return by what factor training multiplies the sum s of the classifier's rows, whatever the data and the network.

    With the cross-entropy every gradient in the logits sums to zero over the classes, so the loss does not change
    :math:`s = W^T 1`: with SGD :math:`v \leftarrow \mu v + \lambda s, \; s \leftarrow s - \eta v`, and with decoupled decay
    :math:`s \leftarrow (1 - \eta\lambda) s`, exactly (docs/theory.md, 4.3). The metric ``nc0`` is the norm of s over that of W.

    Args:
        steps_per_epoch: Batches in an epoch.
        epochs: Epochs that have passed; None takes all of the run.

    Returns:
        :math:`s_T / s_0`, from the first step on. nan where the law does not hold: with Adam, AdamW and L-BFGS, which do not
        step along the gradient, and with a loss other than the cross-entropy.

    Reference:
        Zhao, Cheng, Masarczyk & Lucchi (2026), ICLR, arXiv 2602.16642; that the law is exact with clipping, with any bias and
        with decoupled decay is derived here.

    Example:
        >>> round(row_sum_factor(TrainConfig(), steps_per_epoch=14), 5)
        0.00021
    """
    if config.optimizer not in {"sgd", "sgdw"} or config.loss != "cross_entropy":
        return math.nan
    decoupled = config.optimizer == "sgdw"
    factor, velocity = 1.0, 0.0
    for epoch in range(1, (config.epochs if epochs is None else epochs) + 1):
        rate = lr_at(config, epoch)
        for _ in range(steps_per_epoch):
            velocity = config.weight_decay * factor + (0.0 if decoupled else config.momentum * velocity)
            factor -= rate * velocity
    return factor


def measuring_epochs(epochs: int) -> tuple[int, ...]:
    """Return the epochs after which collapse is measured: every one at first, then in steps of about 9 percent.

    Rising, from 1 to ``epochs``: ``round(epochs / 1.09277**k)`` for k = 0, 1, ... without repetitions. About
    11 log2(epochs / 11) + 11 of them. Epoch 0, before training, is left to the caller.

    Raises:
        ValueError: If there are no epochs.

    Reference:
        V. Papyan, X. Y. Han and D. L. Donoho (2020), PNAS 117(40): their notebook's list for 350 epochs.

    Example:
        >>> measuring_epochs(20)
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 20)
    """
    if epochs < 1:
        raise ValueError(f"measuring_epochs needs 1 epoch or more, got {epochs}. Pass the length of the run.")
    num_ratios = math.ceil(math.log(2 * epochs) / math.log(_EPOCH_RATIO))
    rounded = {round(epochs / _EPOCH_RATIO**power) for power in range(num_ratios)}
    return tuple(sorted(rounded - {0}))


def is_measuring_epoch(epoch: int, epochs: int | None = None) -> bool:
    """Return whether collapse is measured after an epoch: as ``measuring_epochs``, and at 0.

    Beyond the end, and where none is known (``epochs=None``), the steps grow likewise from epoch 1 on.

    Example:
        >>> [epoch for epoch in range(22) if not is_measuring_epoch(epoch)]
        [15, 18, 21]
    """
    if epochs is not None and epoch <= epochs:
        return epoch == 0 or epoch in measuring_epochs(epochs)
    near = round(math.log(max(1, epoch)) / math.log(_EPOCH_RATIO))
    return epoch <= 1 or epoch in {round(_EPOCH_RATIO**power) for power in (near - 1, near, near + 1)}
