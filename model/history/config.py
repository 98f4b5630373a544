"""Configuration of the history encoders and of their training.

Enters: nothing. Leaves: defaults. Read by the encoders and the training; written into the folder of a run.
"""

from typing import Literal

import msgspec

from infra.errors import BadInput

Encoder = Literal["sasrec", "hstu", "joined"]


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise BadInput("bad_configuration", f"{rule}; see nowrank train history --help")


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of an encoder. `temperature` None: scores are inner products; otherwise cosines divided by it.
    `timed`: it learned from times, so it reads them; the training sets it by its histories. `parts`: what a joined
    encoder is made of.
    """

    encoder: Encoder = "sasrec"
    width: int = 64
    blocks: int = 2
    heads: int = 2
    length: int = 200
    dropout: float = 0.2
    temperature: float | None = None
    timed: bool = False
    parts: "tuple[EncoderConfig, ...]" = ()

    def __post_init__(self) -> None:
        _require(
            min(self.width, self.blocks, self.heads, self.length) >= 1, "width, blocks, heads and length count from 1"
        )
        _require(self.width % self.heads == 0, f"heads ({self.heads}) must divide width ({self.width})")
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}; it must be at least 0 and below 1")
        _require(
            self.temperature is None or self.temperature > 0, f"temperature is {self.temperature}; it must be above 0"
        )


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an encoder is trained. `stochastic_length` is HSTU's alpha, None: off (see `windows.py`)."""

    model: EncoderConfig = EncoderConfig()
    windows: bool = False
    stochastic_length: float | None = None
    epochs: int = 40
    patience: int = 8
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        _require(min(self.epochs, self.patience, self.batch, self.threads) >= 1, "epochs, patience, batch and threads "
            "count from 1")  # fmt: skip
        alpha = self.stochastic_length
        _require(alpha is None or 0 < alpha <= 2, f"stochastic length is {alpha}; alpha must be above 0 and at most 2")
