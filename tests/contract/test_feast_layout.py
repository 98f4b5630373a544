"""Feast reads exactly what the workers write, and writes what the workers' readers read, on a real Redis.

Importing Feast takes some ten seconds, so every test that needs it is in this file.
"""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import redis
from feast import Entity as FeastEntity
from feast import FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import (
    DoubleList,
    Int64List,
    StringList,
    Value,
)
from feast.types import Int64
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from features.decay import DAY_MS
from features.delta import Delta, Signal
from features.engagement import Coordinate, Engagement, Kind, Thumb
from features.feast_repo.apply import apply_feast, feast_folder, open_feast, write_feast_repo
from features.feast_repo.offline import EVENT_TIMESTAMP_COLUMN, source_file
from features.item import SIGNALS, ItemState
from features.item import VIEW as ITEM_VIEW
from features.item_columns import item_columns
from features.item_table import ItemTable
from features.online_store import FencedStore, Row, read_states
from features.rates import FIRST_PRIORS
from features.read_time import READ_TIME_VIEWS, ReadTimeView, read_time_values
from features.registry import VIEWS
from features.rows import (
    FAMILIES,
    FOLDS,
    ITEM,
    TARGET_FAMILIES,
    USER,
    RowFamily,
    encode_timestamp,
    encode_value,
    entity_key,
    feature_field,
)
from features.spec import DType, FeatureSpec, ViewSpec
from features.user import fold_user
from infra.settings import Settings

NOW_MS = 1_750_000_000_123
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KEYS = ("plain", "película ✓ 映画", "with space,comma=and:colon", "0", "x" * 128, "\u202eמפתח", "nul-free\x7f")
VIEWS_WITH_FAMILY = [(family, view) for family in FAMILIES for view in family.views]
BY_VIEW = pytest.mark.parametrize(
    ("family", "view"), VIEWS_WITH_FAMILY, ids=[view.name for _, view in VIEWS_WITH_FAMILY]
)


@pytest.fixture(scope="module")
def feast_store(settings: Settings) -> FeatureStore:
    return apply_feast(settings)


@pytest.fixture
def store(settings: Settings, redis_client: redis.Redis) -> Iterator[FencedStore]:
    opened = FencedStore(settings.redis, settings.feast_project)
    yield opened
    opened.close()


def feast_row(feast_store: FeatureStore, view: ViewSpec, keys: list[str]) -> list[dict[str, Any]]:
    """What Feast's SDK answers for these entities, one dictionary for each."""
    names = [spec.name for spec in view.features]
    answer = feast_store.get_online_features(
        [f"{view.name}:{name}" for name in names], [{view.join_key: key} for key in keys]
    ).to_dict()
    return [{name: answer[name][place] for name in names} for place in range(len(keys))]


def our_row(view: ViewSpec, state: Any) -> dict[str, Any]:
    return dict(zip((spec.name for spec in view.features), view.values(state), strict=True))


def engage(row: Row, family: RowFamily, seed: int) -> None:
    """Fold a few engagements in: late ones, retractions, unicode, times with milliseconds."""
    if family is USER:
        for offset, kind in enumerate((Kind.CLICK, Kind.PLAY, Kind.THUMB, Kind.THUMB)):
            event = Engagement(
                kind=kind,
                event_id=f"event-{seed}-{offset}",
                user_id="u",
                event_ts_ms=NOW_MS - offset * 1001 - seed,
                ingested_ts_ms=NOW_MS,
                item_id=f"título-{offset}",
                query="star wars" if offset % 2 else None,
                watched_ms=333,
                duration_ms=1000,
                thumb=(Thumb.NONE, Thumb.NONE, Thumb.DOWN, Thumb.DOUBLE_UP)[offset],
            )
            fold_user(row.state, Coordinate(f"{kind.name.lower()}s-{seed % 4}", offset), event)
        return
    entity = next(entity for entity, owner in TARGET_FAMILIES.items() if owner is family)
    signals = [Signal.PLAY, Signal.CLICK, Signal.IMPRESSION, *([Signal.THUMB_UP] if family is ITEM else [])]
    for place, signal in enumerate(signals):
        at_ms = NOW_MS - place * DAY_MS - seed
        delta = Delta(entity, "key", f"título-{place}", signal, 1, at_ms, NOW_MS, 2**40 * (place == 0), True)
        FOLDS[entity](row.state, delta)
    if family is ITEM:
        at_ms = NOW_MS - 3 * DAY_MS - seed
        FOLDS[entity](row.state, Delta(entity, "key", "título-3", Signal.THUMB_UP, -1, at_ms, NOW_MS))


@BY_VIEW
def test_feast_answers_exactly_what_was_written(
    family: RowFamily, view: ViewSpec, feast_store: FeatureStore, store: FencedStore, redis_client: redis.Redis
) -> None:
    rows = store.read_rows(family, KEYS)
    for seed, row in enumerate(rows):
        engage(row, family, seed)
        row.contained = {"plays-0": seed}
    assert all(store.write_rows(rows))
    states = read_states(redis_client, store.project, [(family, key) for key in KEYS])
    for answer, row, state in zip(feast_row(feast_store, view, list(KEYS)), rows, states, strict=True):
        assert answer == our_row(view, row.state) == our_row(view, state)
        assert all(type(answer[spec.name]) is type(spec.default) for spec in view.features)


@BY_VIEW
def test_an_empty_row_has_the_defaults_and_a_missing_entity_has_none(
    family: RowFamily, view: ViewSpec, feast_store: FeatureStore, store: FencedStore
) -> None:
    assert store.write_rows(store.read_rows(family, ["empty"])) == [True]
    empty, missing = feast_row(feast_store, view, ["empty", "missing"])
    assert {**empty, view.packed.name: b""} == {spec.name: spec.default for spec in view.features}
    assert missing == {spec.name: None for spec in view.features}


@BY_VIEW
def test_the_packed_feature_that_feast_reads_is_the_whole_state(
    family: RowFamily, view: ViewSpec, feast_store: FeatureStore, store: FencedStore
) -> None:
    [row] = store.read_rows(family, ["50"])
    engage(row, family, 0)
    store.write_rows([row])
    packed = [feast_row(feast_store, each, ["50"])[0][each.packed.name] for each in family.views]
    read = family.unpack(packed)
    if family is USER:  # the windows of seen ids are for the fold only, and stand beside the views
        read.seen, read.touched_ms, read.updated_ms = row.state.seen, row.state.touched_ms, row.state.updated_ms
    assert read == row.state


def test_both_views_of_a_user_stand_in_one_row(
    feast_store: FeatureStore, store: FencedStore, redis_client: redis.Redis
) -> None:
    [row] = store.read_rows(USER, ["42"])
    engage(row, USER, 0)
    store.write_rows([row])
    assert [key for key in redis_client.scan_iter() if not key.startswith(b"nowrank:")] == [row.key]
    answer = feast_store.get_online_features(
        ["session:session_items", "user_history:user_history_as_of_ms"], [{"user_id": "42"}]
    ).to_dict()
    assert answer["session_items"] == [["título-3", "título-2", "título-1", "título-0"]]
    assert answer["user_history_as_of_ms"] == [row.state.as_of_ms]


def test_integers_keep_all_their_bits(feast_store: FeatureStore, store: FencedStore) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    row.state = ItemState(as_of_ms=2**62 + 1, first_seen_ms=-5, sums=[-0.0, 5e-324, 1e308] * len(SIGNALS))
    row.state.updated_ms = NOW_MS
    names, values = [spec.name for spec in ITEM_VIEW.features], ITEM_VIEW.values(row.state)
    pairs = [
        part
        for spec, value in zip(ITEM_VIEW.features, values, strict=True)
        for part in (feature_field(ITEM_VIEW.name, spec.name), encode_value(spec.dtype, value))
    ]
    with redis.Redis.from_url(f"redis://{feast_store.config.online_store.connection_string}") as client:
        client.hset(row.key, mapping=dict(zip(pairs[::2], pairs[1::2], strict=True)))
    [answer] = feast_row(feast_store, ITEM_VIEW, ["50"])
    assert answer == dict(zip(names, values, strict=True))
    assert math.copysign(1, answer[names[0]]) == -1


def test_feast_sees_the_time_of_the_newest_event_to_the_millisecond(
    feast_store: FeatureStore, store: FencedStore
) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    engage(row, ITEM, 0)
    store.write_rows([row])
    response = feast_store.get_online_features(["item:item_as_of_ms"], [{"item_id": "50"}])
    stamp = response.proto.results[1].event_timestamps[0]
    assert stamp.ToMilliseconds() == NOW_MS


@given(st.sampled_from(VIEWS), TEXTS, st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True))
def test_keys_are_feasts_byte_for_byte(view: ViewSpec, value: str, project: str) -> None:
    key = EntityKey(join_keys=[view.join_key], entity_values=[Value(string_val=value)])
    assert entity_key(view.join_key, value, project) == _redis_key(project, key, 3)


@given(TEXTS, TEXTS)
def test_fields_are_feasts_byte_for_byte(view: str, feature: str) -> None:
    assert feature_field(view, feature) == _mmh3(f"{view}:{feature}")


PROTOBUF = {
    DType.INT64: lambda value: Value(int64_val=value),
    DType.FLOAT64: lambda value: Value(double_val=value),
    DType.BYTES: lambda value: Value(bytes_val=value),
    DType.STRINGS: lambda value: Value(string_list_val=StringList(val=value)),
    DType.INT64S: lambda value: Value(int64_list_val=Int64List(val=value)),
    DType.FLOAT64S: lambda value: Value(double_list_val=DoubleList(val=value)),
}
MILLISECONDS = st.integers(0, 2**43)
VALUES = {
    DType.INT64: INT64 | MILLISECONDS,
    DType.FLOAT64: st.floats(allow_nan=False),
    DType.BYTES: st.binary(max_size=300),
    DType.STRINGS: st.lists(TEXTS, max_size=60),
    DType.INT64S: st.lists(INT64) | st.lists(MILLISECONDS) | st.lists(st.integers(0, 200)),
    DType.FLOAT64S: st.lists(st.floats(allow_nan=False), max_size=60),
}


@given(st.data(), st.sampled_from(list(DType)))
def test_values_are_feasts_byte_for_byte(data: st.DataObject, dtype: DType) -> None:
    value = data.draw(VALUES[dtype])
    assert encode_value(dtype, value) == PROTOBUF[dtype](value).SerializeToString()


@pytest.mark.parametrize("number", [0, 127, 128, 2**14 - 1, 2**14, 2**28 - 1, 2**28, 2**42 - 1, 2**42, 2**63 - 1, -1])
def test_integers_on_the_edges_of_the_short_cuts_are_feasts_byte_for_byte(number: int) -> None:
    assert encode_value(DType.INT64, number) == Value(int64_val=number).SerializeToString()
    for numbers in ([number], [number] * 3, [number, 2**30], [number, 5]):
        expected = Value(int64_list_val=Int64List(val=numbers)).SerializeToString()
        assert encode_value(DType.INT64S, numbers) == expected


@given(st.integers(0, 253_402_300_799_999))
def test_timestamps_are_protobufs_byte_for_byte(at_ms: int) -> None:
    stamp = Timestamp()
    stamp.FromMilliseconds(at_ms)
    assert encode_timestamp(at_ms) == stamp.SerializeToString()


@BY_VIEW
def test_a_row_that_feast_writes_is_the_row_that_we_would_have_written(
    family: RowFamily, view: ViewSpec, settings: Settings, store: FencedStore, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """Feast's own write, into another project of the same Redis, then our reader and a comparison of every field."""
    other = replace(settings, feast_project="written_by_feast", state_dir=tmp_path)
    [row] = store.read_rows(family, ["película"])
    engage(row, family, 0)
    store.write_rows([row])
    written_at = datetime.fromtimestamp(row.state.updated_ms / 1000, UTC)
    feast_store = apply_feast(other)
    for each in family.views:
        write_with_feast(feast_store, each, "película", row.state, written_at)
    [read] = read_states(redis_client, other.feast_project, [(family, "película")])
    assert our_row(view, read) == our_row(view, row.state)
    ours, theirs = redis_client.hgetall(row.key), redis_client.hgetall(family.key("película", other.feast_project))
    own = {b"_in", b"_log"}
    assert {field: value for field, value in ours.items() if field not in own} == theirs


def write_with_feast(feast_store: FeatureStore, view: ViewSpec, key: str, state: Any, at: datetime) -> None:
    """Feast's path from protobuf values to Redis, without pandas in between."""
    values = {
        name: value_of(spec, value)
        for (name, value), spec in zip(our_row(view, state).items(), view.features, strict=True)
    }
    entity = EntityKey(join_keys=[view.join_key], entity_values=[Value(string_val=key)])
    feast_store._get_provider().online_write_batch(
        feast_store.config, feast_store.get_feature_view(view.name), [(entity, values, at, at)], None
    )


def value_of(spec: FeatureSpec, value: Any) -> Value:
    return PROTOBUF[spec.dtype](value)


def test_a_push_through_feasts_sdk_is_read_by_our_reader(
    settings: Settings, redis_client: redis.Redis, tmp_path: Path
) -> None:
    other = replace(settings, feast_project="pushed", state_dir=tmp_path)
    feast_store = apply_feast(other)
    state = ItemState(as_of_ms=NOW_MS, first_seen_ms=NOW_MS - 5, updated_ms=NOW_MS)
    frame = pd.DataFrame(
        [
            {
                "item_id": "50",
                **our_row(ITEM_VIEW, state),
                EVENT_TIMESTAMP_COLUMN: pd.Timestamp(NOW_MS, unit="ms", tz="UTC"),
            }
        ]
    )
    feast_store.push("item_push", frame)
    assert read_states(redis_client, "pushed", [(ITEM, "50")]) == [state]


def test_applying_again_changes_nothing_and_removes_what_the_registry_no_longer_has(
    settings: Settings, store: FencedStore, feast_store: FeatureStore, redis_client: redis.Redis
) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    engage(row, ITEM, 0)
    store.write_rows([row])
    before = redis_client.hgetall(row.key)
    old = FeastEntity(name="old", join_keys=["old_id"], value_type=ValueType.STRING)
    source = FileSource(name="old_batch", path="offline/old.parquet", timestamp_field="event_timestamp")
    feast_store.apply(
        [old, FeatureView(name="old", entities=[old], schema=[Field(name="n", dtype=Int64)], source=source)]
    )
    names = {view.name for view in VIEWS}
    assert {view.name for view in feast_store.list_feature_views()} == names | {"old"}
    for _ in range(2):
        again = apply_feast(settings)
        assert {view.name for view in again.list_feature_views()} == names
        assert {entity.name for entity in again.list_entities()} == {view.entity for view in VIEWS}
        assert len(again.list_data_sources()) == 2 * len(VIEWS) + len(READ_TIME_VIEWS)
    assert redis_client.hgetall(row.key) == before


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_feasts_definitions_are_the_registrys(view: ViewSpec, feast_store: FeatureStore) -> None:
    defined = feast_store.get_feature_view(view.name)
    assert [(field.name, str(field.dtype)) for field in defined.features] == [
        (spec.name, spec.dtype.value) for spec in view.features
    ]
    assert defined.join_keys == [view.join_key]
    assert defined.ttl == timedelta(seconds=view.ttl_s)
    assert defined.tags["packed_feature"] == view.packed.name
    assert defined.batch_source.path == str(source_file(view))
    assert feast_store.get_data_source(f"{view.name}_push").batch_source == defined.batch_source


def test_past_rows_are_joined_at_their_point_in_time(feast_store: FeatureStore, settings: Settings) -> None:
    columns = ["item_id", "item_clicks_1d", EVENT_TIMESTAMP_COLUMN]
    times = [pd.Timestamp(NOW_MS - age_ms, unit="ms", tz="UTC") for age_ms in (2 * DAY_MS, DAY_MS)]
    frame = pd.DataFrame([["50", 1.0, times[0]], ["50", 2.0, times[1]]], columns=columns)
    path = feast_folder(settings) / source_file(ITEM_VIEW)
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame), path)
    asked = pd.DataFrame(
        {"item_id": "50", "event_timestamp": [times[0] + timedelta(hours=1), times[1] + timedelta(hours=1)]}
    )
    answer = feast_store.get_historical_features(asked, ["item:item_clicks_1d"]).to_df()
    assert answer.sort_values("event_timestamp")["item_clicks_1d"].tolist() == [1.0, 2.0]


def test_the_stores_password_is_passed_on_whatever_is_in_it_and_only_its_owner_may_read_it(
    settings: Settings, tmp_path: Path
) -> None:
    secret = "a\"b\\c$HOME${PATH}#'"
    other = replace(settings, redis=f"{settings.redis},password={secret}", state_dir=tmp_path)
    feast_store = apply_feast(other)
    assert feast_store.config.online_store.connection_string == other.redis
    assert (feast_folder(other) / "feature_store.yaml").stat().st_mode & 0o077 == 0


def test_feast_has_no_telemetry_and_no_lineage_to_send() -> None:
    assert importlib.util.find_spec("feast.usage") is None
    assert importlib.util.find_spec("feast.telemetry") is None


def test_feast_keeps_lineage_and_tracking_off(feast_store: FeatureStore) -> None:
    assert feast_store.openlineage_emitter is None
    assert feast_store.mlflow is None


@pytest.mark.slow
def test_feasts_command_line_lists_the_views_and_reads_values(
    feast_store: FeatureStore, store: FencedStore, settings: Settings
) -> None:
    [row] = store.read_rows(ITEM, ["50"])
    engage(row, ITEM, 0)
    store.write_rows([row])
    feast = [sys.executable, "-m", "feast.cli.cli", "-c", str(feast_folder(settings))]
    listed = subprocess.run([*feast, "feature-views", "list"], capture_output=True, text=True, check=True).stdout
    assert all(view.name in listed for view in VIEWS)
    read = subprocess.run(
        [*feast, "get-online-features", "-e", "item_id=50", "-f", "item:item_clicks_1d", "-f", "item:item_as_of_ms"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    clicks = our_row(ITEM_VIEW, row.state)["item_clicks_1d"]
    assert json.loads(read) == {"item_id": ["50"], "item_clicks_1d": [clicks], "item_as_of_ms": [NOW_MS]}


@pytest.mark.slow
def test_feasts_own_apply_finds_the_generated_definitions(settings: Settings, tmp_path: Path) -> None:
    other = replace(settings, feast_project="applied_by_cli", state_dir=tmp_path)
    folder = write_feast_repo(other)
    subprocess.run([sys.executable, "-m", "feast.cli.cli", "-c", str(folder), "apply"], capture_output=True, check=True)
    assert {view.name for view in open_feast(other).list_feature_views()} == {view.name for view in VIEWS}


@pytest.mark.parametrize("view", READ_TIME_VIEWS, ids=[view.name for view in READ_TIME_VIEWS])
def test_read_time_features_are_the_same_through_feast_and_through_our_own_reader(
    feast_store: FeatureStore, store: FencedStore, redis_client: redis.Redis, settings: Settings, view: ReadTimeView
) -> None:
    family = next(family for family in FAMILIES if view.inputs[0][0] in family.views)
    [row] = store.read_rows(family, ["read"])
    engage(row, family, 3)
    assert store.write_rows([row]) == [True]
    now_ms = NOW_MS + 5 * DAY_MS
    request = {spec.name: spec.default for spec in view.request} | {"now_ms": now_ms}
    keys = [{family.join_key: key, **request} for key in ("read", "missing")]
    names = [spec.name for spec in view.features]
    answer = feast_store.get_online_features([f"{view.name}:{name}" for name in names], keys).to_dict()
    [state] = read_states(redis_client, settings.feast_project, [(family, "read")])
    ours = read_time_values(family, state, now_ms)
    assert {name: answer[name] for name in names} == {
        spec.name: [ours[spec.name], spec.default] for spec in view.features
    }
    assert all(value not in ([], 0, 0.0) for value in ours.values())


def test_rates_of_one_title_are_those_of_the_vector(
    store: FencedStore, redis_client: redis.Redis, settings: Settings
) -> None:
    [row] = store.read_rows(ITEM, ["rated"])
    engage(row, ITEM, 3)
    table = ItemTable()
    table.set_state(table.slot("rated"), row.state)
    *_, completion, thumbs_up, _ = item_columns(
        table, table.slots(["rated"]), NOW_MS + DAY_MS, (*FIRST_PRIORS, 0.0, 0.0)
    )
    rates = read_time_values(ITEM, row.state, NOW_MS + DAY_MS)
    assert rates["item_completion_rate"] == pytest.approx(float(completion[0]))
    assert rates["item_thumbs_up_rate"] == pytest.approx(float(thumbs_up[0]))
