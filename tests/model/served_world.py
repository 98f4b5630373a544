"""A simulated world as the scorer would have logged it: its lists with features, inputs and the schema's hash.

Enters: a plan and a folder. Leaves: a `ServedLog`. Called by this folder's tests.
"""

from pathlib import Path

import msgspec

from features.model_inputs import pack_inputs, request_inputs
from features.registry import schema_hash
from features.vector import COLUMN_NAMES
from model.examples import replay_columns
from model.served_examples import aging_of, replay_of
from model.simulation.files import write_simulation
from model.simulation.served import read_simulated
from model.simulation.simulator import Plan
from streams.events import Ranking
from streams.labels import Label
from streams.served_log import LabelledRanking, ServedLog


def simulated_log(plan: Plan, folder: Path) -> ServedLog:
    """The served log of a plan, without features."""
    write_simulation(plan, folder)
    return read_simulated(folder)


def with_features(served: ServedLog) -> ServedLog:
    """The same log, each ranking with what a scorer logs beside its titles."""
    replay, rankings = replay_of(served), []
    aging = aging_of(served, replay)
    for ranking, labels in served.rankings:
        replay.fold_until(ranking.event_ts_ms)
        asked = Label(
            ranking.user_id, "", False, ranking.event_ts_ms, ranking.task, "", ranking.query, ranking.source_item_id,
            ranking.country, (),
        )  # fmt: skip
        context = replay.context(asked)
        slots = replay.table.slots(item.item_id for item in ranking.items)
        aging.keep_up(ranking.event_ts_ms)
        pairs_NF = replay_columns(replay, aging, context, slots)
        inputs = pack_inputs(replay.table, request_inputs(replay.table, context))
        rankings.append(LabelledRanking(_logged(ranking, pairs_NF, inputs), labels))
    return ServedLog(served.items, rankings, served.events, served.labels_from, served.left_out)


def _logged(ranking: Ranking, pairs_NF: object, inputs: bytes) -> Ranking:
    items = [
        msgspec.structs.replace(item, features=row.tobytes())
        for item, row in zip(ranking.items, pairs_NF, strict=True)  # type: ignore[call-overload]
    ]
    return msgspec.structs.replace(ranking, items=items, inputs=inputs, schema_hash=schema_hash(COLUMN_NAMES))
