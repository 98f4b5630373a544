"""Experiments: which model variant answers whom. Pure.

Enters: settings, user ids. Leaves: a variant's name and the folder of its artifact. Called by `rank.py` and
`process.py`.

A user's variant follows from a hash of the salt and the user's id: it is the same in every process, at every request
and after a restart, and another salt draws all users anew. Variants take their shares in the order of the setting:
when the share of the last one changes, users move only between it and the default one; when that of another changes,
those behind it move up or down, and users change among them.
"""

import math
import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from infra.errors import SettingsError
from infra.settings import Settings

DEFAULT = "default"
# Between the names of two variants, and of their models, that gave an answer together.
JOINT = "+"
# Shares of .2, .4, .3 and .1 may be a little more than 1 as floating-point numbers.
ROUNDING = 1e-9
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """The variants beside the default one, in order, each with its share of the users (together at most 1).

    `pair` are two variants whose answers are interleaved for `pair_share` of all users, drawn independently.
    """

    shares: tuple[tuple[str, float], ...] = ()
    salt: str = ""
    pair: tuple[str, ...] = ()
    pair_share: float = 0.0

    @property
    def variants(self) -> tuple[str, ...]:
        """Every variant, the default one first."""
        return tuple(dict.fromkeys((DEFAULT, *(name for name, _ in self.shares), *self.pair)))

    def pair_of(self, user_id: str) -> tuple[str, ...]:
        """The two variants that are interleaved for this user; empty: none are."""
        return self.pair if _draw(f"{self.salt}\0interleave\0{user_id}") < self.pair_share else ()

    def assign(self, user_id: str) -> str:
        """The user's variant."""
        draw = _draw(f"{self.salt}\0{user_id}")
        for name, share in self.shares:
            if draw < share:
                return name
            draw -= share
        return DEFAULT


def parse_experiment(settings: Settings) -> Experiment:
    """The experiment that the settings describe; raises `SettingsError`."""
    shares = []
    for part in filter(None, (part.strip() for part in settings.variants.split(","))):
        name, _, text = part.partition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not _NAME.fullmatch(name) or name == DEFAULT or not 0 <= share <= 1:
            raise SettingsError(
                f"NOWRANK_VARIANTS has {part!r}; it must be name=share, such as challenger=0.1, and not {DEFAULT}"
            )
        shares.append((name, share))
    names = [name for name, _ in shares]
    if len(set(names)) < len(names) or math.fsum(share for _, share in shares) > 1 + ROUNDING:
        raise SettingsError(
            f"NOWRANK_VARIANTS is {settings.variants!r}; names must differ and shares add up to 1 or less"
        )
    return Experiment(tuple(shares), settings.experiment_salt, *_parse_pair(settings.interleave))


def _parse_pair(text: str) -> tuple[tuple[str, ...], float]:
    if not text:
        return (), 0.0
    names, _, share_text = text.partition("=")
    pair = tuple(name.strip() for name in names.split(JOINT))
    try:
        share = float(share_text)
    except ValueError:
        share = -1.0
    if len(set(pair)) != 2 or len(pair) != 2 or not all(_NAME.fullmatch(name) for name in pair) or not 0 <= share <= 1:
        raise SettingsError(
            f"NOWRANK_INTERLEAVE is {text!r}; it must be two variants and a share, such as default+challenger=0.1"
        )
    return pair, share


def _draw(key: str) -> float:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64


def artifact_folder(settings: Settings, variant: str) -> Path:
    """Where a variant's artifact lies: beside the default one, its name appended."""
    path = settings.artifact_path
    return path if variant == DEFAULT else path.with_name(f"{path.name}-{variant}")
