"""Samples and labels: files, generators, batches.

A ``seed`` is 0 or more; every use of one draws from a stream of its own. Loaders give inputs as float32 rows, on the CPU.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncollapse.data.batches import Batches as Batches
    from ncollapse.data.batches import shuffled_batches as shuffled_batches
    from ncollapse.data.batches import shuffled_order as shuffled_order
    from ncollapse.data.catalog import load_samples as load_samples
    from ncollapse.data.images import read_idx as read_idx
    from ncollapse.data.labeled import LabeledData as LabeledData
    from ncollapse.data.pixels import digits as digits
    from ncollapse.data.places import DataFileError as DataFileError
    from ncollapse.data.places import DataNotFoundError as DataNotFoundError
    from ncollapse.data.shape_images import geo_mnist as geo_mnist
    from ncollapse.data.signals import mnist_1d as mnist_1d
    from ncollapse.data.synthetic import gaussian_mixture as gaussian_mixture
    from ncollapse.recipes.data import DataConfig as DataConfig

# Each name is imported when it is first used: where data lies can be found without torch.
_HOMES = {
    "Batches": "data.batches",
    "DataConfig": "recipes.data",
    "DataFileError": "data.places",
    "DataNotFoundError": "data.places",
    "LabeledData": "data.labeled",
    "digits": "data.pixels",
    "gaussian_mixture": "data.synthetic",
    "geo_mnist": "data.shape_images",
    "load_samples": "data.catalog",
    "mnist_1d": "data.signals",
    "read_idx": "data.images",
    "shuffled_batches": "data.batches",
    "shuffled_order": "data.batches",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ncollapse.{_HOMES[name]}"), name)
