"""Claims of the papers, and the rules that turn run records into verdicts."""

from ncollapse.claims.deep_regularized import DEEP_CLAIMS
from ncollapse.claims.ledger import Ledger, ledger_values, rule_on_claims
from ncollapse.claims.progressive_collapse import CLAIMS

__all__ = ["CLAIMS", "DEEP_CLAIMS", "Ledger", "ledger_values", "rule_on_claims"]
