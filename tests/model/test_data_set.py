from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from infra.errors import BadInput, SchemaMismatch
from model.data_set import FILES, MANIFEST, DataSet, read_data_set, read_manifest, write_data_set
from model.train import build_data_set, train_on_data_set, train_on_log
from nowrank.cli import main
from streams.labels import Log
from tests.model.conftest import SMALL


@pytest.fixture(scope="module")
def built(small_log: Log, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Path]:
    folder = tmp_path_factory.mktemp("built") / "data"
    data = build_data_set(small_log, SMALL)
    write_data_set(data, folder)
    return data, folder


def test_labels_are_not_drawn_anew_from_a_data_set(
    built: tuple[DataSet, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "--dataset", str(built[1]), "--out", str(tmp_path / "artifact"), "--epochs", "1"]
    assert main([*asked, "--labels", "50"]) == 1
    assert "--labels 50 cannot be drawn" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_a_log_is_not_described_beside_a_data_set(
    built: tuple[DataSet, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "absent.csv", "--dataset", str(built[1]), "--out", str(tmp_path / "artifact"), "--epochs", "1"]
    assert main([*asked, "--items", "absent.jsonl", "--map", "a=user_id", "--time-unit", "s", "--hours", "3"]) == 1
    said = "a log, --items, --map, --time-unit, --hours cannot go with --dataset"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_a_draw_that_leaves_a_part_without_examples_is_refused(small_log: Log) -> None:
    with pytest.raises(BadInput, match=r"of about 1 training examples \(--labels\) the draw left none for: train; ask"):
        build_data_set(small_log, replace(SMALL, train_labels=1, seed=2))


def test_a_log_in_which_nobody_liked_anything_is_refused(small_log: Log) -> None:
    disliked = replace(small_log, labels=[replace(label, positive=False) for label in small_log.labels])
    with pytest.raises(BadInput, match="no label is positive in: train, middle"):
        build_data_set(disliked, SMALL)


def test_a_data_set_comes_back_as_it_was_written(built: tuple[DataSet, Path]) -> None:
    data, folder = built
    again = read_data_set(folder)
    for part in ("train", "middle", "calibration"):
        one, other = getattr(data, part), getattr(again, part)
        assert len(one) > 0
        for name in ("slots_BK", "labels_BK", "pairs_BKF", "rates_BK"):
            assert getattr(one, name).dtype == getattr(other, name).dtype
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert list(one.requests) == list(other.requests)
        for name, array in one.requests.items():
            assert array.dtype == other.requests[name].dtype
            assert np.array_equal(array, other.requests[name])
    assert again.table.ids == data.table.ids
    size = len(data.table)
    assert np.array_equal(again.table.title_tokens[:size], data.table.title_tokens[:size])
    assert all(np.array_equal(one, other) for one, other in zip(again.neighbours, data.neighbours, strict=True))
    assert (again.split, again.items, again.range_ms) == (data.split, data.items, data.range_ms)


@pytest.mark.slow
def test_training_on_the_folder_gives_the_model_that_training_on_the_log_gives(
    built: tuple[DataSet, Path], small_log: Log, tmp_path: Path
) -> None:
    from_folder = train_on_data_set(read_data_set(built[1]), tmp_path / "one", config=SMALL).card
    from_log = train_on_log(small_log, tmp_path / "other", config=SMALL).card
    assert from_folder.version == from_log.version
    assert from_folder.training == from_log.training


def test_the_manifest_says_what_the_folder_holds(built: tuple[DataSet, Path], small_log: Log) -> None:
    data, folder = built
    manifest = read_manifest(folder)
    assert manifest.counts == {part: len(getattr(data, part)) for part in ("train", "middle", "calibration")}
    assert manifest.positives["train"] == data.train.labels_BK.sum()
    assert (manifest.begin_ms, manifest.end_ms) == (small_log.labels[0].ts_ms, small_log.labels[-1].ts_ms)
    assert manifest.titles == len(small_log.items)


def test_a_data_set_of_another_registry_is_refused(built: tuple[DataSet, Path], tmp_path: Path) -> None:
    manifest = msgspec.json.decode((built[1] / MANIFEST).read_bytes())
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(manifest | {"schema_hash": "another"}))
    with pytest.raises(SchemaMismatch, match="built for feature schema another"):
        read_data_set(tmp_path)


def test_a_damaged_or_missing_data_set_is_refused(built: tuple[DataSet, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no data set"):
        read_data_set(tmp_path)
    write_data_set(built[0], tmp_path / "copy")
    path = tmp_path / "copy" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="SHA-256"):
        read_data_set(tmp_path / "copy")


def test_a_folder_with_other_files_is_not_overwritten_even_if_one_is_called_as_the_manifest_is(
    built: tuple[DataSet, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for names in (["letter.txt"], ["letter.txt", MANIFEST]):
        for name in names:
            (tmp_path / name).write_text("dear")
        with pytest.raises(BadInput, match="holds other files"):
            write_data_set(built[0], tmp_path)
        assert main(["dataset", "absent.jsonl", "--out", str(tmp_path)]) == 1
        assert "holds other files" in capsys.readouterr().err
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "dear")


def test_a_data_set_takes_the_place_of_an_earlier_one_in_a_folder_that_stays(
    built: tuple[DataSet, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path.stat().st_ino
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        write_data_set(built[0], Path())
    assert read_data_set(tmp_path).items == built[0].items
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, MANIFEST}
    assert tmp_path.stat().st_ino == before
