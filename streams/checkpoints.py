"""Checkpoints: where each log goes on, in which log that is, and what stage 2 must remember of it.

Enters: bytes from the online store. Leaves: `Checkpoint`s, and bytes. Called by both stages, the worker's assignment,
`nowrank verify` and `nowrank rebuild`.

A checkpoint is one value, so that its parts never disagree. Its first element is `next_offset`: the store compares it,
and never moves a checkpoint back.
"""

import msgspec

from infra.errors import CheckpointInvalid

Highest = dict[str, tuple[int, int]]


class Checkpoint(msgspec.Struct, array_like=True):
    """Where a log goes on, where this store's fold of it began, the topic's id, and, for a delta log, the highest
    (offset, ordinal) of each source seen before `next_offset`.
    """

    next_offset: int = 0
    first_offset: int = 0
    log_id: str = ""
    highest: Highest = msgspec.field(default_factory=dict)

    def move_to(self, next_offset: int) -> None:
        """Go on at `next_offset`, never further back."""
        self.next_offset = max(self.next_offset, next_offset)


_DECODER = msgspec.msgpack.Decoder(Checkpoint)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The stored form."""
    return msgspec.msgpack.encode(checkpoint)


def decode_checkpoints(stored: dict[str, bytes]) -> dict[str, Checkpoint]:
    """The checkpoints by log; raises `CheckpointInvalid`."""
    return {log: decode_checkpoint(log, value) for log, value in stored.items()}


def decode_checkpoint(log: str, stored: bytes) -> Checkpoint:
    """The checkpoint of a log; raises `CheckpointInvalid`."""
    try:
        return _DECODER.decode(stored)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CheckpointInvalid(f"of {log}", error) from error
