"""Feast's entities, views and push sources, generated from the registry.

Enters: `features.registry.VIEWS`. Leaves: Feast objects, under names that `feast apply` finds. Called by `apply.py`,
and by Feast's command line, which imports this file. Importing it takes seconds: it imports Feast.
"""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureView, Field, FileSource, OnDemandFeatureView, PushSource, RequestSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, Float64, Int64, String

from features.feast_repo.offline import EVENT_TIMESTAMP_COLUMN, source_file
from features.read_time import READ_TIME_VIEWS, ReadTimeView
from features.registry import VIEWS
from features.spec import DType, FeatureSpec, ViewSpec

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


def feast_read_time_view(view: ReadTimeView, stored: dict[str, FeatureView]) -> OnDemandFeatureView:
    """A view that Feast computes when it is read; the reader passes `view.request` with the entity's key."""
    request = RequestSource(name=f"{view.name}_request", schema=[_field(spec) for spec in view.request])
    inputs = [name for _, names in view.inputs for name in names]
    arguments = (*inputs, *(spec.name for spec in view.request))
    name, outputs = view.name, [spec.name for spec in view.features]

    def computed(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        from features.read_time import READ_TIME_VIEWS_BY_NAME  # Feast stores this function, and what it closes over

        values = READ_TIME_VIEWS_BY_NAME[name].values
        rows = [values(*row) for row in zip(*(columns[name] for name in arguments), strict=True)]
        return {output: [row[place] for row in rows] for place, output in enumerate(outputs)}

    return OnDemandFeatureView(
        name=view.name,
        sources=[request, *(stored[source.name][list(names)] for source, names in view.inputs)],
        schema=[_field(spec) for spec in view.features],
        udf=computed,
        udf_string="see READ_TIME_VIEWS in features/read_time.py",
        mode="python",
    )


def _field(spec: FeatureSpec) -> Field:
    return Field(name=spec.name, dtype=FEAST_TYPES[spec.dtype])


ENTITIES: dict[str, Entity] = {view.entity: feast_entity(view) for view in VIEWS}
FEATURE_VIEWS: dict[str, FeatureView] = {view.name: feast_view(view, ENTITIES[view.entity]) for view in VIEWS}
PUSH_SOURCES: dict[str, PushSource] = {name: view.stream_source for name, view in FEATURE_VIEWS.items()}
READ_TIME_FEATURE_VIEWS: dict[str, OnDemandFeatureView] = {
    view.name: feast_read_time_view(view, FEATURE_VIEWS) for view in READ_TIME_VIEWS
}

# `feast apply` looks at a module's own names, not into containers.
globals().update({f"{name}_entity": entity for name, entity in ENTITIES.items()})
globals().update({f"{name}_view": view for name, view in (FEATURE_VIEWS | READ_TIME_FEATURE_VIEWS).items()})
