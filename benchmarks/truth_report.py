"""The tables of the benchmark of the truth, and whether what is asked of it holds.

Enters: figures by world. Leaves: Markdown, and a verdict. Called by `truth.py`.
"""

from collections.abc import Sequence
from typing import Any

MOST_ERROR = 0.02
ASKED_RHO = 0.8
METRIC_NAMES = {"tau": "tau", "ndcg": "NDCG@10"}
GATE_NAMES = {
    "learned": "learned",
    "told": "the same inputs, told the true gates",
    "bayes": "by Bayes' rule",
    "bayes_knows_bias": "by Bayes' rule, the member's bias known",
}
REQUESTS = {"all": "all", "both_sides": "with a session and a history"}


def tables(worlds: dict[str, Any]) -> str:
    """Every table, one under the other."""
    return "\n\n".join([_gates(worlds), _calibration(worlds), _order(worlds)])


def holds(worlds: dict[str, Any]) -> bool:
    """Whether every calibration error is small enough, the blend orders better than either side alone, and the session
    gains nothing without moods. The gate is not asked for: its ceiling is part of its figure.
    """
    for name, world in worlds.items():
        gains = world["order"]["gains"]
        errors = [task[error] for task in world["calibration"].values() for error in ("ece", "ece_true")]
        if not gains or max(errors) > MOST_ERROR:
            return False
        if name == "no moods":
            if gains["blend - history"]["tau"]["low"] > 0:
                return False
        elif min(gains[f"blend - {side}"]["tau"]["low"] for side in ("session", "history")) <= 0:
            return False
    return True


def _gates(worlds: dict[str, Any]) -> str:
    rows = [
        (world, REQUESTS[requests], GATE_NAMES[gate], _span(figure, "rho"))
        for world, figures in worlds.items()
        for requests, gates in figures["gate"].items()
        for gate, figure in gates.items()
    ]
    return _table(("world", "requests", "gate", f"rank correlation with the true gate (asked: {ASKED_RHO})"), rows)


def _calibration(worlds: dict[str, Any]) -> str:
    rows = [
        (world, task, f"{own['titles']:,}", f"{own['engaged']:.3f}", f"{own['ece']:.4f}", f"{own['ece_true']:.4f}")
        for world, figures in worlds.items()
        for task, own in figures["calibration"].items()
    ]
    error = f"calibration error (asked: at most {MOST_ERROR})"
    return _table(("world", "task", "titles", "engaged", error, "against the true probability"), rows)


def _order(worlds: dict[str, Any]) -> str:
    rows = []
    for world, figures in worlds.items():
        order = figures["order"]
        for side, own in order["sides"].items():
            rows.append((world, side, *(f"{own[metric]:.4f}" for metric in METRIC_NAMES)))
        for pair, gain in order["gains"].items():
            rows.append((world, pair, *(_span(gain[metric], "mean", "+") for metric in METRIC_NAMES)))
    return _table(("world", "sides", *(f"{name} with the true order" for name in METRIC_NAMES.values())), rows)


def _span(figure: dict[str, float], name: str, sign: str = "") -> str:
    low, high = (f"{figure[end]:{sign}.4f}" for end in ("low", "high"))
    return f"{figure[name]:{sign}.4f} ({low} .. {high})"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows))
