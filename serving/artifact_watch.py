"""The artifact watch: picks up a model when it appears, and a newer one when it replaces it.

Enters: the artifact's folder. Leaves: a warmed model in the `Scorer`, or a line in the log and the old model. Run as a
task of the scorer's process.
"""

import asyncio
import logging
from pathlib import Path

import numpy as np

from features.engagement import Task
from features.vector import Context
from infra.clock import now_ms
from infra.errors import NowrankError
from infra.metrics import Metrics
from model.artifact import CARD, NAMES, Artifact, load_artifact
from serving.experiments import DEFAULT
from serving.library import Library
from serving.scorer import POPULARITY, LoadedModel, Scorer

WARM_UP_CANDIDATES = 500
WARM_UP_RUNS = 3
# When a file was written, its inode, its size: one that is being copied may grow within a tick of its clock.
Stamp = tuple[int, int, int]

log = logging.getLogger(__name__)


class ArtifactWatch:
    """Looks at one variant's folder; what has been seen once is not tried again until its card changes, or, where it
    was refused, any of its files: a card may come before the files that it vouches for.
    """

    def __init__(self, path: Path, scorer: Scorer, metrics: Metrics, variant: str = DEFAULT) -> None:
        self._path = path
        self._variant = variant
        self._scorer = scorer
        self._metrics = metrics
        self._seen: dict[str, Stamp | None] = {}
        self._was_refused = False
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Load the artifact when it is another one than last time; encode the titles again when they have changed."""
        async with self._looking:
            await self._look()

    async def look_again(self) -> None:
        """The same now, and also at an artifact that was refused when it was seen last."""
        async with self._looking:
            if self._was_refused:
                self._seen = {}
            await self._look()

    async def _look(self) -> None:
        stamps = {name: _stamp(self._path / name) for name in NAMES}
        looked_at = NAMES if self._was_refused else (CARD,)
        if stamps[CARD] is not None and any(stamps[name] != self._seen.get(name) for name in looked_at):
            self._seen = stamps
            self._was_refused = not await self._load()
        model = self._scorer.models.get(self._variant)
        if model is not None and model.encoded_version != self._scorer.library.content_version:
            version = self._scorer.library.content_version
            model.encoded = await asyncio.to_thread(model.encode, self._scorer.library)
            model.encoded_version = version

    async def _load(self) -> bool:
        """True when the artifact answers from now on."""
        library = self._scorer.library
        try:
            artifact = await asyncio.to_thread(load_artifact, self._path)
            await library.put_artifact_items(artifact.items)
            model = await asyncio.to_thread(_encoded, artifact, library)
            self._warm_up(model)
        except NowrankError as error:
            log.error("the artifact of %s is refused, %s stays: %s", self._variant, self._version, error)
            return False
        except Exception:
            log.exception("the artifact in %s is refused, %s stays", self._path, self._version)
            return False
        if (former := self._scorer.models.get(self._variant)) is not None:
            former.near.close()
        self._scorer.models[self._variant] = model
        if self._variant == DEFAULT:
            self._metrics.set("nowrank_scorer_model_loaded_timestamp_seconds", now_ms() / 1000)
        log.info("model %s answers for %s from now on", artifact.version, self._variant)
        return True

    @property
    def _version(self) -> str:
        model = self._scorer.models.get(self._variant)
        return POPULARITY if model is None else model.artifact.version

    def _warm_up(self, model: LoadedModel) -> None:
        """Score every task: the first request finds no cold path, and a model that cannot score is refused here."""
        slots = np.arange(WARM_UP_CANDIDATES) % len(self._scorer.library.table)
        for task in list(Task) * WARM_UP_RUNS:
            context = Context(task=task, now_ms=now_ms(), query="a")
            self._scorer.score(self._scorer.prepare(model, context, slots), task)


def _encoded(artifact: Artifact, library: Library) -> LoadedModel:
    version = library.content_version
    return LoadedModel(artifact, artifact.encode_items(library.table), version)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
