import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from features.engagement import Task
from features.item import ItemState
from features.item_table import ItemTable
from features.model_inputs import request_inputs
from features.vector import COLUMN_NAMES, COLUMNS, Context, pair_matrix
from infra.errors import ArtifactInvalid, BadInput, SchemaMismatch
from model.artifact import CARD, FILES, Artifact, install_artifact, load_artifact
from model.replay import Replay
from model.train import TrainReport
from nowrank.cli import main
from streams.labels import Log
from tests.serving.untrained import save_untrained_artifact, vouch_for_a_cut_file

Trained = tuple[Path, TrainReport]


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the artifact that a test may damage."""
    return Path(shutil.copytree(trained[0], tmp_path / "artifact"))


def _world(artifact: Artifact, log: Log) -> tuple[ItemTable, Context]:
    replay = Replay(log)
    replay.fold_until(log.labels[-1].ts_ms)
    return replay.table, replay.context(log.labels[-1])


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ArtifactInvalid, match=name):
        load_artifact(copied)


@pytest.mark.parametrize("size", [0, 5_000])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_its_reader_cannot_read_is_refused_though_the_card_vouches_for_it(
    copied: Path, name: str, size: int
) -> None:
    vouch_for_a_cut_file(copied, name, size)
    with pytest.raises(ArtifactInvalid, match="cannot be read"):
        load_artifact(copied)


@pytest.mark.parametrize("name", [*FILES, CARD])
def test_a_missing_file_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ArtifactInvalid, match=name):
        load_artifact(copied)


def test_an_artifact_for_other_features_is_refused(copied: Path) -> None:
    card = msgspec.json.decode((copied / CARD).read_bytes())
    (copied / CARD).write_bytes(msgspec.json.encode(card | {"schema_hash": "0" * 16}))
    with pytest.raises(SchemaMismatch, match="train again"):
        load_artifact(copied)


def test_a_card_that_is_no_card_is_refused(copied: Path) -> None:
    for content in (b"", b"[]", b"\xff", b'{"version": 3}'):
        (copied / CARD).write_bytes(content)
        with pytest.raises(ArtifactInvalid):
            load_artifact(copied)


def test_the_card_names_what_the_model_was_made_from(trained: Trained) -> None:
    artifact = load_artifact(trained[0])
    assert artifact.card == trained[1].card
    assert artifact.card.columns == COLUMN_NAMES
    assert artifact.card.vocabulary[0] == ""
    assert [item.item_id for item in artifact.items] == list(artifact.card.vocabulary[1 : 1 + len(artifact.items)])


def test_a_title_that_training_never_saw_gets_a_vector_of_its_content(trained: Trained) -> None:
    artifact = load_artifact(trained[0])
    table = ItemTable()
    known = artifact.items[0]
    twin = msgspec.structs.replace(known, item_id="twin")
    for item in (twin, known, msgspec.structs.replace(known, item_id="third")):
        table.set_item(item)
    encoded = artifact.encode_items(table)
    assert encoded.index_V.tolist() == [0, 0, 1, 0]
    assert not encoded.vectors_VD[0].any()
    assert encoded.vectors_VD[1].tolist() == encoded.vectors_VD[3].tolist() != encoded.vectors_VD[2].tolist()


def test_slots_of_another_table_give_the_same_scores(trained: Trained, small_log: Log) -> None:
    artifact = load_artifact(trained[0])
    table, context = _world(artifact, small_log)
    other = ItemTable()
    for item in reversed(artifact.items):
        other.set_item(item)
    for slot, item_id in enumerate(table.ids[1:], 1):
        times_ms = int(table.as_of_ms[slot]), int(table.first_seen_ms[slot])
        other.set_state(other.slot(item_id), ItemState(*times_ms, sums=table.sums[slot].tolist()))
    logits = []
    for one in (table, other):
        encoded, slots = artifact.encode_items(one), one.slots(["t1", "t20", "t33", "t50"])
        pairs = pair_matrix(one, slots, context, artifact.similarities(encoded, one, context, slots))
        logits.append(artifact.score(encoded, request_inputs(one, context), slots, pairs).logits_N)
    assert logits[0] == pytest.approx(logits[1], abs=1e-4)


def test_scores_come_with_probabilities_in_the_same_order_and_the_parts(trained: Trained, small_log: Log) -> None:
    artifact = load_artifact(trained[0])
    table, context = _world(artifact, small_log)
    encoded, slots = artifact.encode_items(table), np.arange(1, len(table))
    pairs = pair_matrix(table, slots, context, artifact.similarities(encoded, table, context, slots))
    inputs = request_inputs(table, context)
    scores = artifact.score(encoded, inputs, slots, pairs)
    assert np.array_equal(np.argsort(scores.logits_N, kind="stable"), np.argsort(scores.probabilities_N, kind="stable"))
    assert ((scores.probabilities_N > 0) & (scores.probabilities_N < 1)).all()
    assert 0 < scores.gate < 1
    no_history = artifact.score(encoded, inputs, slots, pairs, without="long")
    no_session = artifact.score(encoded, inputs, slots, pairs, without="short")
    assert (no_history.gate, no_session.gate) == (1.0, 0.0)
    assert not no_history.long_N.any()
    assert not no_session.short_N.any()


def test_taking_a_side_out_blanks_its_columns_too(trained: Trained, small_log: Log) -> None:
    artifact = load_artifact(trained[0])
    table, context = _world(artifact, small_log)
    encoded, slots = artifact.encode_items(table), np.arange(1, len(table))
    pairs = pair_matrix(table, slots, context, artifact.similarities(encoded, table, context, slots))
    blank = pairs.copy()
    blank[:, [column.part == "short" for column in COLUMNS]] = 0.0
    inputs = request_inputs(table, context)
    with_columns, without = (
        artifact.score(encoded, inputs, slots, one, without="short").logits_N for one in (pairs, blank)
    )
    assert np.array_equal(with_columns, without)


def test_somebody_without_any_rows_is_scored(trained: Trained) -> None:
    artifact = load_artifact(trained[0])
    table = ItemTable()
    for item in artifact.items:
        table.set_item(item)
    encoded, slots = artifact.encode_items(table), np.arange(1, len(table))
    for task in Task:
        context = Context(task=task, now_ms=1_700_000_000_000, query="nig" if task is Task.SEARCH else None)
        pairs = pair_matrix(table, slots, context, artifact.similarities(encoded, table, context, slots))
        scores = artifact.score(encoded, request_inputs(table, context), slots, pairs)
        assert np.isfinite(scores.logits_N).all()
        assert scores.gate == 0.0


def test_loading_an_artifact_imports_neither_torch_nor_onnx(trained: Trained) -> None:
    program = (
        "import sys; from pathlib import Path; from model.artifact import load_artifact;"
        "load_artifact(Path(sys.argv[1]));"
        "print([name for name in ('torch', 'onnx', 'faust', 'feast') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(trained[0])], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(("place", "why"), [("plays.jsonl", "is a file"), ("", "holds other files (plays.jsonl)")])
def test_what_is_no_artifact_is_never_replaced_by_one_and_that_is_said_before_any_work(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, why: str
) -> None:
    (tmp_path / "plays.jsonl").write_text("dear")
    with pytest.raises(BadInput) as refused:
        install_artifact(trained[0], tmp_path / place)
    assert why in str(refused.value)
    for command in (["train", "absent.jsonl", "--out"], ["promote", str(trained[0]), "--log", "absent", "--current"]):
        assert main([*command, str(tmp_path / place)]) == 1
        assert why in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plays.jsonl"]
    assert (tmp_path / "plays.jsonl").read_text() == "dear"


def test_an_artifact_takes_the_place_of_an_earlier_one_in_a_folder_that_stays(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path.stat().st_ino  # of a mount point, or of where a shell is, no other folder can take the place
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        install_artifact(trained[0], Path())
        assert {path.name for path in tmp_path.iterdir()} == {*FILES, CARD}
    assert load_artifact(tmp_path).version == trained[1].card.version
    assert tmp_path.stat().st_ino == before


def test_what_cannot_take_its_place_is_kept_and_named_and_the_card_comes_last(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / CARD).mkdir()
    with pytest.raises(BadInput, match=f"the artifact is done, .* {CARD} last") as failed:
        install_artifact(trained[0], tmp_path)
    [kept] = tmp_path.glob(".new-*")
    assert str(kept) in str(failed.value)
    assert [path.name for path in kept.iterdir()] == [CARD]
    (tmp_path / CARD).rmdir()
    (kept / CARD).rename(tmp_path / CARD)
    assert load_artifact(tmp_path).version == trained[1].card.version
    install_artifact(trained[0], tmp_path)  # what such a write leaves is in nobody's way


def test_what_came_into_its_folder_during_a_training_costs_no_artifact(small_log: Log, tmp_path: Path) -> None:
    save_untrained_artifact(tmp_path, small_log.items)
    (tmp_path / "notes.txt").write_text("dear")
    card = save_untrained_artifact(tmp_path, small_log.items, seed=1)
    assert load_artifact(tmp_path).card == card
    assert (tmp_path / "notes.txt").read_text() == "dear"


def test_an_artifact_that_fails_leaves_nothing_and_takes_nothing_away(trained: Trained, copied: Path) -> None:
    (copied / CARD).write_text("[]")
    for path in (copied.parent / "new", copied.parent / "old"):
        if path.name == "old":
            install_artifact(trained[0], path)
        with pytest.raises(ArtifactInvalid):
            install_artifact(copied, path)
    assert not (copied.parent / "new").exists()
    assert load_artifact(copied.parent / "old").version == trained[1].card.version
    assert {path.name for path in (copied.parent / "old").iterdir()} == {*FILES, CARD}
