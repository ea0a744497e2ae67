"""Samples and labels: files, generators, batches."""

from ncollapse.data.batches import Batches, shuffled_batches, shuffled_order
from ncollapse.data.catalog import DataConfig, load_data
from ncollapse.data.geo_mnist import geo_mnist
from ncollapse.data.images import DataFileError, digits, read_idx
from ncollapse.data.labeled import LabeledData
from ncollapse.data.places import DataNotFoundError
from ncollapse.data.synthetic import gaussian_mixture

__all__ = [
    "Batches",
    "DataConfig",
    "DataFileError",
    "DataNotFoundError",
    "LabeledData",
    "digits",
    "gaussian_mixture",
    "geo_mnist",
    "load_data",
    "read_idx",
    "shuffled_batches",
    "shuffled_order",
]
