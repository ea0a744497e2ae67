"""The ``ncollapse solve`` command: one file a surrogate model."""

from typing import Any

from ncollapse.cli.solve.batch_norm import add_batch_norm
from ncollapse.cli.solve.bounded_outputs import add_bounded_outputs
from ncollapse.cli.solve.central_path import add_central_path
from ncollapse.cli.solve.deep_ufm import add_deep_ufm
from ncollapse.cli.solve.fixed_etf import add_fixed_etf
from ncollapse.cli.solve.gufm import add_gufm
from ncollapse.cli.solve.layer_peeled import add_layer_peeled
from ncollapse.cli.solve.le_sde import add_le_sde
from ncollapse.cli.solve.max_margin import add_max_margin
from ncollapse.cli.solve.mixon_flow import add_mixon_flow
from ncollapse.cli.solve.mufm import add_mufm
from ncollapse.cli.solve.near_collapse import add_near_collapse
from ncollapse.cli.solve.normalized_features import add_normalized_features
from ncollapse.cli.solve.ufm import add_ufm
from ncollapse.cli.solve.weight_normalized import add_weight_normalized

__all__ = ["add_solve"]

# In the order of the help.
_MODELS = (
    add_ufm,
    add_mufm,
    add_gufm,
    add_layer_peeled,
    add_deep_ufm,
    add_near_collapse,
    add_mixon_flow,
    add_central_path,
    add_batch_norm,
    add_weight_normalized,
    add_bounded_outputs,
    add_normalized_features,
    add_max_margin,
    add_fixed_etf,
    add_le_sde,
)


def add_solve(commands: Any) -> None:
    """Add ``solve`` and its models to the command line.

    Args:
        commands: The subparsers of ``ncollapse``.
    """
    parser = commands.add_parser("solve", help="solve a surrogate model of the theory, with a certificate")
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL", parser_class=type(parser))
    for add in _MODELS:
        add(models)
