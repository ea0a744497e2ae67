"""The ``ncollapse solve`` command: one file a surrogate model."""

from typing import Any

from ncollapse.cli.solve.fixed_etf import add_fixed_etf
from ncollapse.cli.solve.gufm import add_gufm
from ncollapse.cli.solve.layer_peeled import add_layer_peeled
from ncollapse.cli.solve.le_sde import add_le_sde
from ncollapse.cli.solve.max_margin import add_max_margin
from ncollapse.cli.solve.mufm import add_mufm
from ncollapse.cli.solve.ufm import add_ufm

__all__ = ["add_solve"]

# In the order of the help.
_MODELS = (
    add_ufm,
    add_mufm,
    add_gufm,
    add_layer_peeled,
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
