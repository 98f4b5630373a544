"""The scorer: candidates and a context become scores, by the model or, where there is none, by popularity.

Enters: slots and a `Context`. Leaves: `Scored`. Called by `rank.py`; the model is put in by `artifact_watch.py`. Runs
in the event loop's thread: ONNX Runtime on one thread, no hand-over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.engagement import Task
from features.model_inputs import RequestInputs, request_inputs
from features.vector import Context, Similarities, pair_matrix
from model.artifact import Artifact, ItemVectors
from model.neighbours import Sources
from serving.experiments import DEFAULT
from serving.fallback import popularity_scores
from serving.library import Library
from serving.title_index import best_first
from serving.vector_index import VectorIndex

Floats = NDArray[np.float32]
Slots = NDArray[np.int64]

# A score that is no number (a feature overflowed) goes to the end instead of spoiling the order.
WORST_SCORE = -1e6
# What answers call themselves that were given without a model.
POPULARITY = "popularity"


@dataclass(slots=True)
class LoadedModel:
    """An artifact and the vectors of the library's titles, also as an index of what is near to what.

    `encoded_version` is the library's content that they were made for.
    """

    artifact: Artifact
    encoded: ItemVectors
    encoded_version: int
    near: VectorIndex = field(default_factory=VectorIndex)

    def __post_init__(self) -> None:
        self.near.put(self.encoded.vectors_VD)

    def encode(self, library: Library) -> ItemVectors:
        """The vectors of the library's titles as they are now, also put into the index; may run beside the event loop,
        which then takes them over.
        """
        encoded = self.artifact.encode_items(library.table)
        self.near.put(encoded.vectors_VD)
        return encoded

    def vectors(self, size: int) -> ItemVectors:
        """The vectors of `size` slots; titles that came since they were encoded are zeros until they are."""
        missing = size - len(self.encoded.bias_V)
        if missing > 0:
            vectors_VD, bias_V, index_V = self.encoded
            self.encoded = ItemVectors(
                np.concatenate([vectors_VD, np.zeros((missing, vectors_VD.shape[1]), np.float32)]),
                np.concatenate([bias_V, np.zeros(missing, np.float32)]),
                np.concatenate([index_V, np.zeros(missing, np.int64)]),
            )
        return self.encoded


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a model needs to score: its candidates' columns and the request's side."""

    model: LoadedModel | None
    slots: Slots
    pairs_NF: Floats
    inputs: RequestInputs | None


@dataclass(frozen=True, slots=True)
class Scored:
    """The candidates' scores; `probabilities_N` and `gate` are None without a model."""

    scores_N: Floats
    probabilities_N: Floats | None
    gate: float | None


class Scorer:
    """Holds the current model of each variant; a request uses one model from its beginning to its end."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.models: dict[str, LoadedModel] = {}

    @property
    def model(self) -> LoadedModel | None:
        """The default variant's model."""
        return self.models.get(DEFAULT)

    def model_of(self, variant: str) -> tuple[str, LoadedModel | None]:
        """A variant's model with the variant's name; the default one while the variant has none."""
        return (variant, self.models[variant]) if variant in self.models else (DEFAULT, self.model)

    @property
    def version(self) -> str:
        """The current model's version; POPULARITY when there is none."""
        return POPULARITY if self.model is None else self.model.artifact.version

    def similarities(self, model: LoadedModel, context: Context, slots: Slots) -> Similarities:
        """Each title's item-to-item score with the source, the history and the session."""
        table = self.library.table
        return model.artifact.similarities(model.vectors(len(table)), table, context, slots)

    def nearness_sources(self, model: LoadedModel, context: Context) -> dict[str, Sources]:
        """The titles whose neighbours a context asks for, by the candidates' source that brings these."""
        table = self.library.table
        sources = model.artifact.similarity_sources(model.vectors(len(table)), table, context)
        return dict(zip(("source", "history", "session"), sources, strict=True))

    def neighbours(self, model: LoadedModel, sources: Sources, wanted: int) -> Iterator[int]:
        """The slots of the neighbours of some titles, the nearest first, 0 for those that the table lacks; those after
        `wanted` ones are sorted only if asked for.
        """
        index_N, scores_N = model.artifact.neighbours(sources)
        vocabulary, slot_of = model.artifact.card.vocabulary, self.library.table.slot_by_id.get
        return (slot_of(vocabulary[index_N[place]], 0) for place in best_first(scores_N, wanted))

    def prepare(self, model: LoadedModel | None, context: Context, slots: Slots) -> Prepared:
        """The columns of the candidates and, for a model, the request's side of its inputs."""
        table = self.library.table
        if model is None:
            return Prepared(None, slots, pair_matrix(table, slots, context, None), None)
        similarities = self.similarities(model, context, slots)
        return Prepared(model, slots, pair_matrix(table, slots, context, similarities), request_inputs(table, context))

    def score(self, prepared: Prepared, task: Task) -> Scored:
        """The scores of all candidates; always finite."""
        model = prepared.model
        if model is None or prepared.inputs is None:
            return Scored(finite(popularity_scores(prepared.pairs_NF, task)), None, None)
        scores = model.artifact.score(
            model.vectors(len(self.library.table)), prepared.inputs, prepared.slots, prepared.pairs_NF
        )
        return Scored(finite(scores.logits_N), np.nan_to_num(scores.probabilities_N, nan=0.0), scores.gate)


def finite(scores_N: Floats) -> Floats:
    """Scores without infinities; what is no number goes to the end."""
    return np.nan_to_num(scores_N, nan=WORST_SCORE, posinf=-WORST_SCORE, neginf=WORST_SCORE)
