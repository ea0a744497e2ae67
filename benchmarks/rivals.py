"""The same work in a user's own few lines: NumPy, torch in float32, and the passes of published codes.

They compute fewer numbers than ``measure_features``: NC1 by a pseudo-inverse, CDNV, the distance of the class means from a
simplex ETF, and nearest-center accuracy. None is safe with features far from the origin.
"""

import numpy as np
import torch
from torch import Tensor


def by_numpy(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """As a user writes it with NumPy, for features in memory."""
    counts = np.bincount(labels, minlength=num_classes)
    order = np.argsort(labels, kind="stable")
    means = np.add.reduceat(features[order], np.r_[0, np.cumsum(counts)[:-1]]) / counts[:, None]
    residual, centered = features - means[labels], means - means.mean(0)
    _, values, basis = np.linalg.svd(centered, full_matrices=False)
    inside = residual @ basis[: num_classes - 1].T / values[: num_classes - 1]
    nc1 = (inside**2).sum() / len(features)
    variances = np.bincount(labels, (residual**2).sum(1)) / counts
    gram = centered @ centered.T
    gaps = np.add.outer(np.diag(gram), np.diag(gram)) - 2 * gram + np.diag(np.full(num_classes, np.inf))
    cdnv = (np.add.outer(variances, variances) / 2 / gaps).sum() / num_classes / (num_classes - 1)
    frame = (np.eye(num_classes) - 1 / num_classes) / np.sqrt(num_classes - 1)
    etf = np.linalg.norm(gram / np.linalg.norm(gram) - frame)
    ncc = ((features @ means.T - (means**2).sum(1) / 2).argmax(1) == labels).mean()
    return float(nc1), float(cdnv), float(etf), float(ncc)


def by_torch(features: Tensor, labels: Tensor, num_classes: int) -> tuple[float, ...]:
    """As a user writes it with torch in float32, for features in memory."""
    counts = torch.bincount(labels, minlength=num_classes)
    means = torch.zeros(num_classes, features.shape[1]).index_add_(0, labels, features) / counts[:, None]
    residual, centered = features - means[labels], means - means.mean(0)
    _, values, basis = torch.linalg.svd(centered, full_matrices=False)
    nc1 = (residual @ basis[: num_classes - 1].T / values[: num_classes - 1]).square().sum() / len(features)
    variances = torch.zeros(num_classes).index_add_(0, labels, residual.square().sum(1)) / counts
    gram = centered @ centered.T
    gaps = (gram.diag()[:, None] + gram.diag() - 2 * gram).fill_diagonal_(torch.inf)
    cdnv = ((variances[:, None] + variances) / 2 / gaps).sum() / num_classes / (num_classes - 1)
    frame = (torch.eye(num_classes) - 1 / num_classes) / (num_classes - 1) ** 0.5
    etf = torch.linalg.norm(gram / torch.linalg.norm(gram) - frame)
    ncc = ((features @ means.T - means.square().sum(1) / 2).argmax(1) == labels).float().mean()
    return float(nc1), float(cdnv), float(etf), float(ncc)


def as_published(features: Tensor, labels: Tensor, num_classes: int, tile: int = 64) -> tuple[float, ...]:
    """As published codes do: three loops over batches of 128, a d×d covariance and pseudo-inverse, differences of all pairs."""
    batches = list(zip(features.split(128), labels.split(128), strict=True))
    dim = features.shape[1]
    sums, within, variances, hits = torch.zeros(num_classes, dim), torch.zeros(dim, dim), torch.zeros(num_classes), 0
    for x, y in batches:
        sums += torch.nn.functional.one_hot(y, num_classes).float().T @ x
    counts = torch.bincount(labels, minlength=num_classes)
    means = sums / counts[:, None]
    for x, y in batches:
        residual = x - means[y]
        within += residual.T @ residual
        variances.index_add_(0, y, residual.square().sum(1))
    for x, y in batches:
        squares = x.square().sum(1)[:, None] + means.square().sum(1) - 2 * x @ means.T
        hits += int((squares.argmin(1) == y).sum())
    centered, variances = means - means.mean(0), variances / counts
    nc1 = torch.trace(torch.linalg.pinv(centered.T @ centered / num_classes) @ within) / len(features) / num_classes
    cdnv = torch.zeros(())
    for own, spread in zip(means.split(tile), variances.split(tile), strict=True):
        for other, other_spread in zip(means.split(tile), variances.split(tile), strict=True):
            gaps = (own[:, None] - other).square().sum(2)
            cdnv += ((spread[:, None] + other_spread) / 2 / gaps)[gaps > 0].sum()
    gram = centered @ centered.T
    frame = (torch.eye(num_classes) - 1 / num_classes) / (num_classes - 1) ** 0.5
    etf = torch.linalg.norm(gram / torch.linalg.norm(gram) - frame)
    return float(nc1), float(cdnv / num_classes / (num_classes - 1)), float(etf), hits / len(features)


def float32_products(features: Tensor, means: Tensor) -> None:
    """Compute the one product with all class means that nobody can leave out, in float32: the limit."""
    room = torch.empty(1024, len(means))
    for block in features.split(1024):
        torch.mm(block, means.T, out=room[: len(block)])


def three_passes(
    model: torch.nn.Module, stages: tuple[str, ...], batches: list[tuple[Tensor, Tensor]], num_classes: int
) -> None:
    """Collect means, then d×d covariances, then decisions, of all stages in float32, with one forward pass each."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.flatten(1)}))
        for name in stages
    ]

    def one_pass(add) -> None:
        with torch.no_grad():
            for inputs, labels in batches:
                model(inputs)
                for name, features in seen.items():
                    add(name, features, labels)

    sums: dict[str, Tensor] = {}
    one_pass(lambda name, h, y: sums.setdefault(name, torch.zeros(num_classes, h.shape[1])).index_add_(0, y, h))
    counts = torch.bincount(torch.cat([labels for _, labels in batches]), minlength=num_classes)
    means = {name: total / counts[:, None] for name, total in sums.items()}
    within = {name: torch.zeros(m.shape[1], m.shape[1]) for name, m in means.items()}

    def add_covariance(name: str, features: Tensor, labels: Tensor) -> None:
        residual = features - means[name][labels]
        within[name].addmm_(residual.T, residual)

    one_pass(add_covariance)
    one_pass(lambda name, h, y: (torch.cdist(h, means[name]).argmin(1) == y).sum())
    for name, m in means.items():
        centered = m - m.mean(0)
        torch.trace(within[name] @ torch.linalg.pinv(centered.T @ centered))
    for handle in handles:
        handle.remove()
