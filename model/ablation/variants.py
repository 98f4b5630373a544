"""Variants: the networks of a study, and which of them are compared.

Enters: nothing. Leaves: `VARIANTS` by name, `COMPARISONS` by group. Read by the rest of this folder.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from model.config import SWITCHES, Personalisation, UnicornConfig

FULL, PER_TASK, SHUFFLED = "full", "one network per task", "session shuffled"
LONG_ONLY, SHORT_ONLY = "long only", "short only"
# Labels of members who come for the third time or more often, the session of the label counted.
RETURNING = "third_session_or_later"


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from the whole network; `per_task` trains one network on each task's own examples."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    per_task: bool = False

    def sizes(self, whole: UnicornConfig) -> UnicornConfig:
        """The network's configuration."""
        return replace(whole, **self.changes)

    @property
    def slug(self) -> str:
        """The name as a part of a file's name."""
        return self.name.replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`of` minus `minus`, by task; `inside` names the slice that it is about, None for all labels."""

    of: str
    minus: str
    inside: str | None = None


def _without(part: str) -> str:
    return f"without {part}"


_PARTS = ("imputation", "crossing", "task", "counts", "vectors")
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(FULL),
        Variant(PER_TASK, per_task=True),
        *(
            Variant(stage.value, {"personalisation": stage})
            for stage in Personalisation
            if stage is not Personalisation.FULL
        ),
        Variant(LONG_ONLY, {"short": False}),
        Variant(SHORT_ONLY, {"long": False}),
        *(Variant(_without(part), {SWITCHES[part]: False}) for part in _PARTS),
    )
}

BASELINES = "baselines"
COMPARISONS: dict[str, tuple[Comparison, ...]] = {
    "tasks": (Comparison(FULL, PER_TASK),),
    "stages": (
        Comparison("clusters", "none"),
        Comparison("scores", "clusters"),
        Comparison(FULL, "scores"),
        Comparison(FULL, "none"),
    ),
    "sides": tuple(Comparison(FULL, side, inside) for side in (LONG_ONLY, SHORT_ONLY) for inside in (None, RETURNING)),
    "parts": tuple(Comparison(FULL, _without(part)) for part in _PARTS),
    "order": (Comparison(FULL, SHUFFLED),),
    # The strongest of the run, which only the run tells.
    BASELINES: (),
}


def needed(groups: tuple[str, ...]) -> tuple[Variant, ...]:
    """The variants to be trained for some groups, the whole network first."""
    names = {FULL} | {name for group in groups for one in COMPARISONS[group] for name in (one.of, one.minus)}
    return tuple(variant for variant in VARIANTS.values() if variant.name in names)
