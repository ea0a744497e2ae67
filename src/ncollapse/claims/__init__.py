"""Claims of the papers, and the rules that turn run records into verdicts."""

from ncollapse.claims.deep_regularized import DEEP_CLAIMS
from ncollapse.claims.evidence import Evidence, by_seed
from ncollapse.claims.ledger import Ledger, ledger_values, rule_on_claims
from ncollapse.claims.open_questions import QUESTIONS
from ncollapse.claims.progressive_collapse import CLAIMS
from ncollapse.claims.rules import RULES, Claim

__all__ = [
    "CLAIMS",
    "DEEP_CLAIMS",
    "QUESTIONS",
    "RULES",
    "Claim",
    "Evidence",
    "Ledger",
    "by_seed",
    "ledger_values",
    "rule_on_claims",
]
