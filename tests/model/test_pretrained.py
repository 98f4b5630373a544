"""Item vectors that begin where a history encoder ended: they do, who it was is said, and none may look ahead."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.errors import BadInput
from model.artifact import load_artifact
from model.batches import Catalogue
from model.data_set import DataSet
from model.examples import split_by_time
from model.history.config import EncoderConfig, TrainingConfig
from model.history.histories import Histories, histories_of_log
from model.history.run_folder import load_encoder
from model.history.train import Order, train_and_test
from model.pretrained import narrowed, read_pretrained
from model.progress import Silent
from model.train import build_data_set, train_on_data_set
from model.unicorn import Unicorn
from streams.labels import Log
from tests.model.conftest import SMALL

WIDTH, VECTOR = 16, 64
QUICK = replace(SMALL, epochs=1, train_labels=200)
CONFIG = TrainingConfig(model=EncoderConfig(width=WIDTH, heads=2, blocks=1, length=8), epochs=1, batch=8)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(small_log: Log) -> DataSet:
    """What `nowrank train` makes of the small log."""
    return build_data_set(small_log, QUICK)


def trained_run(folder: Path, histories: Histories, before_ms: int | None) -> Path:
    """The folder of a run over these histories."""
    train_and_test(histories, Order(folder, CONFIG, 1e9, False, before_ms), Silent())
    return folder


@pytest.fixture(scope="module")
def run(small_log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saw the training part only."""
    end_ms = split_by_time(small_log).train_end_ms
    histories = histories_of_log(small_log, core=4, before_ms=end_ms)
    return trained_run(tmp_path_factory.mktemp("runs") / "run", histories, end_ms)


def test_titles_begin_as_the_encoders_vectors_and_unknown_ones_at_zero(data: DataSet, run: Path) -> None:
    pretrained = read_pretrained(run, data, VECTOR)
    config = pretrained.sized(QUICK.model)
    assert config.item_id == WIDTH
    torch.manual_seed(0)
    model = Unicorn(config, len(data.table))
    before_VD = model.items.item_id.weight.clone()
    pretrained.begin(model)
    after_VD = model.items.item_id.weight.detach()
    encoder, card = load_encoder(run)
    known = data.table.slots(card.titles)
    unknown = [slot for slot in range(len(data.table)) if slot not in set(known.tolist())]
    assert len(unknown) > 1
    assert not after_VD[unknown].any()
    assert after_VD[known].std().item() == pytest.approx(before_VD[1:].std().item(), rel=0.1)
    # Centred and scaled, but the same directions: differences between titles are those of the encoder.
    theirs, ours = encoder.item_vectors().detach()[1:], after_VD[known]
    likeness = torch.cosine_similarity(ours[1:] - ours[:-1], theirs[1:] - theirs[:-1])
    assert likeness.min().item() == pytest.approx(1.0, abs=1e-4)
    # A title's vector begins with the encoder's and what its words and genres add.
    catalogue = Catalogue.of(data.table)
    with_ids, without = catalogue.encode(model)[0], catalogue.encode(model, id_dropout=1.0)[0]
    assert torch.allclose((with_ids - without)[known][:, :WIDTH], ours, atol=1e-5)


def test_the_card_says_who_the_encoder_was_and_the_artifact_serves(data: DataSet, run: Path, tmp_path: Path) -> None:
    card = train_on_data_set(data, tmp_path / "with", config=replace(QUICK, history_encoder=str(run))).card
    plain = train_on_data_set(data, tmp_path / "without", config=QUICK).card
    said = load_artifact(tmp_path / "with").card.training["titles_begin"]
    assert said["vectors"] == "sasrec"
    assert said["before_ms"] == data.split.train_end_ms
    assert said["titles"] == len(load_encoder(run)[1].titles)
    assert plain.training["titles_begin"]["vectors"] == "co-plays"
    assert card.version != plain.version


def test_a_run_that_may_have_seen_later_events_is_refused(
    small_log: Log, data: DataSet, run: Path, tmp_path: Path
) -> None:
    everything = histories_of_log(small_log, core=4)
    for before_ms in (None, data.split.train_end_ms + 1):
        later = trained_run(tmp_path / str(before_ms), everything, before_ms)
        with pytest.raises(BadInput, match="--part train"):
            read_pretrained(later, data, VECTOR)
    with pytest.raises(BadInput, match="--part train"):
        read_pretrained(run, replace(data, shift_ms=1), VECTOR)


def test_a_run_that_knows_none_of_the_titles_is_refused(data: DataSet, tmp_path: Path) -> None:
    walks = {str(user): [(1 + (user + step) % 9, step) for step in range(6)] for user in range(9)}
    other = trained_run(tmp_path, Histories.of(walks, [f"other {item}" for item in range(9)]), before_ms=1)
    with pytest.raises(BadInput, match="none of the log's titles"):
        read_pretrained(other, data, VECTOR)


def test_wider_vectors_are_turned_so_that_their_inner_products_stay() -> None:
    torch.manual_seed(0)
    flat = torch.randn(40, 3) @ torch.randn(3, 8)
    assert torch.allclose(narrowed(flat, 3) @ narrowed(flat, 3).T, flat @ flat.T, atol=1e-4)
    assert narrowed(flat, 8) is flat
