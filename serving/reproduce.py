"""Reproduce: the scores of a logged answer, computed again from what was logged.

Enters: a `Ranking` of the log, the artifact that made it, the titles. Leaves: both scores of each title. Called by
`reproduce_command.py`.

Logged are each title's columns and the request's inputs; the titles' vectors come from the artifact and the catalogue.
A title that was written to the catalogue since may have another vector.
ONNX Runtime gives a candidate the same bits however many others are scored with it (a test holds it to that), so that
on the same build and processor the scores must be equal bit for bit.
"""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from features.engagement import TASK_NAMES
from features.item_table import ItemTable
from features.model_inputs import unpack_inputs
from features.vector import COLUMN_NAMES
from infra.errors import InvalidEvent, NowrankError
from infra.settings import Settings
from model.artifact import Artifact, load_artifact
from serving.experiments import JOINT, artifact_folder
from serving.fallback import popularity_scores
from serving.scorer import POPULARITY, finite
from streams.audit.log_reader import LogReader
from streams.audit.skew_catalogue import LoggedCatalogue
from streams.events import OF_ITEM, Ranking, decode_record
from streams.topics import RANKINGS

_COLUMN_BYTES = 4 * len(COLUMN_NAMES)


class Reproduced(NamedTuple):
    """One title's logged and computed score; `computed` is None where its columns were not logged. `has_changed`: it,
    or one that the model compares it with, was written to the catalogue since, or so shortly before that the scorer may
    not have had it yet.
    """

    item_id: str
    logged: float
    computed: float | None
    has_changed: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether both are the same number, to the last bit."""
        return self.logged == self.computed


def find_ranking(reader: LogReader, ranking_id: str) -> Ranking:
    """The newest logged answer of this id; reads the whole topic. Raises `NowrankError` when there is none."""
    wanted, found = ranking_id.encode(), []
    for span in reader.spans([RANKINGS]).values():
        for record in reader.read_span(span):
            if record.value is not None and wanted in record.value:
                with suppress(InvalidEvent):
                    ranking = decode_record(record.topic, record.value)
                    if isinstance(ranking, Ranking) and ranking.ranking_id == ranking_id:
                        found.append(ranking)
    if not found:
        raise NowrankError(
            f"the log holds no ranking {ranking_id!r}: it was not logged (`nowrank rank` without --log, a request with "
            '`"log": false`), or its retention is over'
        )
    return max(found, key=lambda ranking: ranking.event_ts_ms)


class Titles(NamedTuple):
    """The titles as they are, and those that the scorer may have had otherwise."""

    table: ItemTable
    changed: Collection[str] = ()


def read_titles(reader: LogReader, artifact: Artifact | None, at_ms: int) -> Titles:
    """The catalogue's titles, or the artifact's where there is no catalogue; for an answer of `at_ms`."""
    catalogue = LoggedCatalogue(reader)
    if not catalogue.is_known and artifact is not None:
        for item in artifact.items:
            catalogue.table.set_item(item)
    return Titles(catalogue.table, catalogue.changed_since(at_ms))


def reproduce(ranking: Ranking, artifact: Artifact | None, titles: Titles) -> list[Reproduced]:
    """The logged titles in their order, scored again.

    Raises `NowrankError` when the artifact is not the one that made the answer, or when the answer holds no inputs.
    """
    version = POPULARITY if artifact is None else artifact.version
    if ranking.model != version:
        raise NowrankError(
            f"the answer was made with model {ranking.model!r}, this is {version!r}: give its folder with --artifact"
        )
    whole = [item for item in ranking.items if len(item.features) == _COLUMN_BYTES]
    if not whole or (artifact is not None and not ranking.inputs):
        raise NowrankError(
            f"ranking {ranking.ranking_id!r} was logged without its features: by a backfill, or by another version"
        )
    table, changed = titles
    compared: set[str] = set()
    pairs_NF = np.stack([np.frombuffer(item.features, np.float32) for item in whole])
    if artifact is None:
        scores_N = finite(popularity_scores(pairs_NF, TASK_NAMES[ranking.task]))
    else:
        slots = np.array([_slot(table, ranking, item.item_id) for item in whole], np.int64)
        inputs = unpack_inputs(table, ranking.inputs)
        slots_compared = (inputs.source_slot, *inputs.session_slots_L.tolist(), *inputs.history_slots_T.tolist())
        compared = {table.ids[slot] for slot in slots_compared}
        scores_N = finite(artifact.score(artifact.encode_items(table), inputs, slots, pairs_NF).logits_N)
    computed = dict(zip((item.item_id for item in whole), scores_N.tolist(), strict=True))
    have_changed = not compared.isdisjoint(changed)
    return [
        Reproduced(item.item_id, item.score, computed.get(item.item_id), have_changed or item.item_id in changed)
        for item in ranking.items
    ]


def reproduce_interleaved(
    ranking: Ranking, artifacts: dict[str, Artifact], titles: dict[str, Titles]
) -> list[Reproduced]:
    """The titles of an interleaved answer in their order, each scored again by the variant whose pick it is; a pinned
    one by the first. Raises like `reproduce`.
    """
    variants, models = ranking.variant.split(JOINT), ranking.model.split(JOINT)
    computed: dict[str, Reproduced] = {}
    for variant, model in zip(variants, models, strict=True):
        items = [item for item in ranking.items if (item.team or variants[0]) == variant]
        if items:
            own = msgspec.structs.replace(ranking, items=items, model=model, variant=variant)
            again = reproduce(own, artifacts[variant], titles[variant])
            computed |= {one.item_id: one for one in again}
    return [computed[item.item_id] for item in ranking.items]


def reproduce_logged(
    settings: Settings, ranking_id: str, folder: Path | None = None
) -> tuple[Ranking, list[Reproduced]]:
    """Find a ranking in the log and score it again with the artifact in `folder`, by default that of its variant.

    Raises `NowrankError`, `ArtifactInvalid` among them.
    """
    with LogReader(settings) as reader:
        ranking = find_ranking(reader, ranking_id)
        if JOINT in ranking.variant:
            if folder is not None:
                raise NowrankError(
                    f"{ranking.variant!r} answered together, from a folder each: give none with --artifact, but "
                    "NOWRANK_ARTIFACT_DIR"
                )
            artifacts = {name: load_artifact(artifact_folder(settings, name)) for name in ranking.variant.split(JOINT)}
            at_ms = ranking.event_ts_ms
            titles = {name: read_titles(reader, artifact, at_ms) for name, artifact in artifacts.items()}
            return ranking, reproduce_interleaved(ranking, artifacts, titles)
        artifact = None
        if ranking.model != POPULARITY:
            artifact = load_artifact(folder or artifact_folder(settings, ranking.variant))
        return ranking, reproduce(ranking, artifact, read_titles(reader, artifact, ranking.event_ts_ms))


def _slot(table: ItemTable, ranking: Ranking, item_id: str) -> int:
    """The title's slot; 0 for one that the scorer did not know either: no title and no row."""
    return table.slot(item_id) if f"{OF_ITEM}{item_id}" in ranking.contained else table.slot_by_id.get(item_id, 0)
