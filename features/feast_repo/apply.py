"""Apply the registry to Feast.

Enters: settings. Leaves: a Feast repository in `<state_dir>/feast` and its registry file. Called by `nowrank features
apply`, the demo and tests. Feast is imported only when it is used: that takes seconds.
"""

import json
import os
import string
from pathlib import Path
from typing import TYPE_CHECKING

from infra.connected import require_store
from infra.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

_TEMPLATE = Path(__file__).with_name("feature_store.yaml")
_DEFINITIONS = '"""What `feast apply` finds here."""\n\nfrom features.feast_repo.definitions import *  # noqa: F403\n'


def feast_folder(settings: Settings) -> Path:
    """The folder of the Feast repository that belongs to the running store."""
    return settings.state_dir.absolute() / "feast"


def write_feast_repo(settings: Settings) -> Path:
    """Write the repository that `feast -c FOLDER` reads, and return its folder; raises `NowrankError` without a store.

    It holds the store's address, password included, so only its owner may read it.
    """
    redis = require_store(settings).redis
    folder = feast_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "NOWRANK_FEAST_PROJECT": _yaml_text(settings.feast_project),
        "NOWRANK_STATE_DIR": _yaml_text(str(folder.parent)),
        "NOWRANK_REDIS": _yaml_text(redis),
    }
    _write_private(folder / "feature_store.yaml", string.Template(_TEMPLATE.read_text()).substitute(values))
    _write_private(folder / "definitions.py", _DEFINITIONS)
    return folder


def open_feast(settings: Settings) -> "FeatureStore":
    """Feast's store over the running online store, whether or not the registry was applied."""
    from feast import FeatureStore

    return FeatureStore(repo_path=str(write_feast_repo(settings)))


def apply_feast(settings: Settings) -> "FeatureStore":
    """Make Feast's registry equal ours: add and change what differs, delete what ours no longer has. Rows stay."""
    store = open_feast(settings)
    from features.feast_repo.definitions import ENTITIES, FEATURE_VIEWS, PUSH_SOURCES, READ_TIME_FEATURE_VIEWS

    sources = {source.name for push in PUSH_SOURCES.values() for source in (push, push.batch_source)}
    sources |= {name for view in READ_TIME_FEATURE_VIEWS.values() for name in view.source_request_sources}
    obsolete = [view for view in store.list_feature_views() if view.name not in FEATURE_VIEWS]
    obsolete += [view for view in store.list_on_demand_feature_views() if view.name not in READ_TIME_FEATURE_VIEWS]
    obsolete += [entity for entity in store.list_entities() if entity.name not in ENTITIES]
    obsolete += [source for source in store.list_data_sources() if source.name not in sources]
    objects = [*ENTITIES.values(), *PUSH_SOURCES.values(), *FEATURE_VIEWS.values(), *READ_TIME_FEATURE_VIEWS.values()]
    store.apply(objects, objects_to_delete=obsolete, partial=False)
    return store


def _yaml_text(value: str) -> str:
    """The inside of a double-quoted YAML string; a dollar sign is escaped because Feast expands variables again."""
    return json.dumps(value)[1:-1].replace("$", "\\x24")


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    new = path.with_suffix(path.suffix + ".new")
    new.touch(mode=0o600)
    new.write_text(text)
    os.replace(new, path)
