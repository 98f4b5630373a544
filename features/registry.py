"""The feature registry: every view and feature, in order; the single truth that everything else is generated from.

Enters: the family files. Leaves: `VIEWS`, `schema_hash()`. Read by rows, Feast definitions, vectors,
artifacts and documentation.
"""

import hashlib
import json

from features import country, item, query, session, source_item, user_history
from features.read_time import READ_TIME_VIEWS
from features.spec import ViewSpec

VIEWS: tuple[ViewSpec, ...] = (session.VIEW, user_history.VIEW, item.VIEW, query.VIEW, source_item.VIEW, country.VIEW)
VIEWS_BY_NAME: dict[str, ViewSpec] = {view.name: view for view in VIEWS}


def registry_document() -> list[dict[str, object]]:
    """The registry as plain data, in order: what the golden file and the schema hash hold."""
    return [
        {
            "view": view.name,
            "entity": view.entity,
            "join_key": view.join_key,
            "ttl_s": view.ttl_s,
            "features": [{"name": feature.name, "dtype": feature.dtype.value} for feature in view.features],
        }
        for view in VIEWS
    ]


def schema_hash(columns: tuple[str, ...]) -> str:
    """The hash of the registry and of the model's input columns: an artifact made for another one is refused."""
    document = {"views": registry_document(), "columns": columns}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def feature_table() -> str:
    """The Markdown table of `docs/features.md`."""
    lines = ["| view | keyed by | feature | type | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{view.name}` | `{view.join_key}` | `{feature.name}` | {feature.dtype.value} | {feature.doc} |"
        for view in VIEWS
        for feature in view.features
    ]
    return "\n".join(lines) + "\n"


def read_time_table() -> str:
    """The Markdown table of what is computed when a row is read."""
    lines = ["| view | of | feature | type | needs | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{view.name}` | {', '.join(f'`{source.name}`' for source, _ in view.inputs)} "
        f"| `{feature.name}` | {feature.dtype.value} "
        f"| {', '.join(f'`{spec.name}`' for spec in view.request)} | {feature.doc} |"
        for view in READ_TIME_VIEWS
        for feature in view.features
    ]
    return "\n".join(lines) + "\n"
