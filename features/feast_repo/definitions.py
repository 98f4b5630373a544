"""Feast's entities, views and push sources, generated from the registry.

Enters: `features.registry.VIEWS`. Leaves: Feast objects, under names that `feast apply` finds. Called by `apply.py`,
and by Feast's command line, which imports this file. Importing it takes seconds: it imports Feast.
"""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, Float64, Int64, String

from features.feast_repo.offline import EVENT_TIMESTAMP_COLUMN, source_file
from features.registry import VIEWS
from features.spec import DType, ViewSpec

FEAST_TYPES = {
    DType.INT64: Int64,
    DType.FLOAT64: Float64,
    DType.BYTES: Bytes,
    DType.STRINGS: Array(String),
    DType.INT64S: Array(Int64),
    DType.FLOAT64S: Array(Float64),
}


def feast_entity(view: ViewSpec) -> Entity:
    """The entity that a view is keyed by."""
    return Entity(name=view.entity, join_keys=[view.join_key], value_type=ValueType.STRING)


def feast_view(view: ViewSpec, entity: Entity) -> FeatureView:
    """A view with its push source, and its batch source: the Parquet that training writes, which need not exist yet."""
    batch_source = FileSource(
        name=f"{view.name}_batch",
        path=str(source_file(view)),  # relative: Feast looks below the repository's folder
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP_COLUMN,
    )
    return FeatureView(
        name=view.name,
        entities=[entity],
        ttl=timedelta(seconds=view.ttl_s),
        schema=[Field(name=spec.name, dtype=FEAST_TYPES[spec.dtype], description=spec.doc) for spec in view.features],
        source=PushSource(name=f"{view.name}_push", batch_source=batch_source),
        description=view.doc,
        tags={"generated_from": "features/registry.py", "packed_feature": view.packed.name},
    )


ENTITIES: dict[str, Entity] = {view.entity: feast_entity(view) for view in VIEWS}
FEATURE_VIEWS: dict[str, FeatureView] = {view.name: feast_view(view, ENTITIES[view.entity]) for view in VIEWS}
PUSH_SOURCES: dict[str, PushSource] = {name: view.stream_source for name, view in FEATURE_VIEWS.items()}

# `feast apply` looks at a module's own names, not into containers.
globals().update({f"{name}_entity": entity for name, entity in ENTITIES.items()})
globals().update({f"{name}_view": view for name, view in FEATURE_VIEWS.items()})
