"""Analyses of one network that need more than its features: energies of blocks and local elasticity."""

from ncollapse.analysis.block_energy import weight_decay_bounds
from ncollapse.analysis.elasticity import Elasticity, local_elasticity

__all__ = ["Elasticity", "local_elasticity", "weight_decay_bounds"]
