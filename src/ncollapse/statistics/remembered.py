"""Class moments that keep what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import Tensor

from ncollapse.statistics.conventions import ClassWeights, Convention
from ncollapse.statistics.moments import ClassMoments


class RememberedMoments(ClassMoments):
    """Moments that keep what follows from them, for the metrics of one evaluation, which ask for the same again and again."""

    @classmethod
    def of(cls, moments: ClassMoments) -> RememberedMoments:
        """Remember what follows from some moments from here on."""
        return cls(moments.counts, moments.means, moments.scatter_traces)

    @cached_property
    def _known(self) -> dict[tuple[str, str], Tensor]:
        return {}

    @cached_property
    def _has_all(self) -> bool:
        return bool((self.counts > 0).all())

    @property
    def class_means(self) -> Tensor:
        """Class means."""
        return self.means if self._has_all else super().class_means

    @cached_property
    def class_variances(self) -> Tensor:
        """Variances of the classes."""
        return super().class_variances

    @cached_property
    def rounding_floor(self) -> Tensor:
        """The rounding of squared distances."""
        return super().rounding_floor

    def class_weights(self, weights: ClassWeights = "class") -> Tensor:
        """Return the weights of the classes."""
        return self._once("class_weights", super().class_weights, weights)

    def centered_means(self, center: ClassWeights = "class") -> Tensor:
        """Return the centered class means."""
        return self._once("centered_means", super().centered_means, center)

    def within_trace(self, weights: ClassWeights = "class") -> Tensor:
        """Return the trace of the within-class covariance."""
        return self._once("within_trace", super().within_trace, weights)

    def between_trace(self, convention: Convention = "class") -> Tensor:
        """Return the trace of the between-class covariance."""
        return self._once("between_trace", super().between_trace, convention)

    def _once(self, name: str, compute: Callable[[Any], Tensor], choice: str) -> Tensor:
        if (name, choice) not in self._known:
            self._known[name, choice] = compute(choice)
        return self._known[name, choice]
