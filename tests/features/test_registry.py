"""The registry: its golden file, its names and what is generated from it."""

import json
import re
from pathlib import Path

import pytest

from features.commands import features_page
from features.decay import HALF_LIVES_MS
from features.registry import VIEWS, VIEWS_BY_NAME, feature_table, registry_document, schema_hash
from features.rows import FAMILIES
from features.spec import DType, ViewSpec
from features.vector import COLUMN_NAMES, COLUMNS
from nowrank.cli import main

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "registry.json"
DECAYED = (DType.FLOAT64, DType.FLOAT64S)


def test_the_registry_is_the_one_in_the_golden_file() -> None:
    assert registry_document() == json.loads(GOLDEN.read_text()), "if this is meant, run `python -m tests.golden`"


def test_the_documentation_shows_the_registry() -> None:
    page = (REPOSITORY / "docs" / "features.md").read_text()
    assert page == features_page(), "run `nowrank features docs > docs/features.md`"
    assert feature_table() in page


def test_every_feature_is_named_once() -> None:
    names = [spec.name for view in VIEWS for spec in view.features]
    assert sorted(names) == sorted(set(names))
    assert list(VIEWS_BY_NAME) == [view.name for view in VIEWS]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_names_are_the_entity_the_signal_and_the_half_life_of_what_is_decayed(view: ViewSpec) -> None:
    for spec in view.features:
        assert re.fullmatch(rf"{view.name}(_[a-z0-9]+)+", spec.name)
        assert (spec.name.rsplit("_", 1)[1] in HALF_LIVES_MS) == (spec.dtype in DECAYED), spec.name


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_ends_with_its_packed_state_and_says_when_it_stood(view: ViewSpec) -> None:
    assert (view.packed.name, view.packed.dtype) == (f"{view.name}_packed", DType.BYTES)
    assert [spec.dtype for spec in view.features].count(DType.BYTES) == 1
    assert f"{view.name}_as_of_ms" in {spec.name for spec in view.features}


def test_a_new_state_shows_the_defaults_of_its_features() -> None:
    for family in FAMILIES:
        for view in family.views:
            *values, _ = view.values(family.new_state())
            assert values == [spec.default for spec in view.features[:-1]], view.name


def test_every_view_belongs_to_exactly_one_family_keyed_alike() -> None:
    assert {view.name for family in FAMILIES for view in family.views} == set(VIEWS_BY_NAME)
    for family in FAMILIES:
        assert {view.join_key for view in family.views} == {family.join_key}


def test_the_schema_hash_depends_on_the_registry_and_on_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema_hash(COLUMN_NAMES)
    assert before != schema_hash(COLUMN_NAMES[:-1])
    assert before != schema_hash(COLUMN_NAMES[::-1])
    monkeypatch.setattr("features.registry.registry_document", lambda: registry_document()[:-1])
    assert before != schema_hash(COLUMN_NAMES)


def test_every_column_of_the_vector_is_named_once_and_explains_one_part() -> None:
    assert len(COLUMN_NAMES) == len(set(COLUMN_NAMES))
    assert {column.part for column in COLUMNS} == {"context", "long", "short"}


def test_the_commands_print_the_registry_and_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(spec.name in listed for view in VIEWS for spec in view.features)
    assert main(["features", "docs"]) == 0
    assert capsys.readouterr().out == features_page()
