"""The regularized objective and its floor in words."""

from ncollapse.drawing.wording import number
from ncollapse.records.run_files import ObjectiveRecord

__all__ = ["say_objective"]


def say_objective(record: ObjectiveRecord | None) -> list[str]:
    """The objective beside the minimum of the generalized unconstrained features model."""
    if record is None:
        return []
    side = "above" if record.excess >= 0 else "BELOW"
    said = f"The objective with λ = {number(record.weight_decay)} is {record.objective:.6g} (loss {number(record.loss)}, "
    said += f"penalty {number(record.penalty)}), {number(abs(record.excess))} {side} its floor {record.floor:.6g}, the minimum "
    said += "of the generalized unconstrained features model, below which no such network gets. "
    return [f"{said}Relative distance of features and last layer from its minimizers: {number(record.distance)}."]
