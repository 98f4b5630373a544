"""Co-vectors: like company makes like vectors, chance does not, and nothing of later is in them."""

import numpy as np
import pytest
import torch

from model.co_vectors import WIDTH, co_vectors, mutual_information
from model.config import UnicornConfig
from model.examples import build_examples, split_by_time
from model.neighbours import CoPlays, Pairs
from model.pretrained import of_co_vectors
from model.progress import Silent
from model.replay import Replay
from model.sparse_co_plays import SparseCoPlays
from streams.labels import Log

NOTHING = {"train": 0.0, "middle": 0.0, "calibration": 0.0}
GROUP, GROUPS = 20, 3


def grouped(counts: CoPlays | SparseCoPlays, rng: np.random.Generator) -> Pairs:
    """Sixty titles of three groups; members stay within one."""
    for _ in range(600):
        group = int(rng.integers(GROUPS))
        played, *recent = (1 + group * GROUP + rng.permutation(GROUP)[:5]).tolist()
        counts.add(played, recent)
    return counts.pairs(1 + GROUPS * GROUP)


def test_titles_of_one_group_point_the_same_way() -> None:
    pairs = grouped(CoPlays(), np.random.default_rng(0))
    vectors_VD = co_vectors(pairs, 1 + GROUPS * GROUP)[1:]
    unit_VD = vectors_VD / np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    likeness = (unit_VD @ unit_VD.T).reshape(GROUPS, GROUP, GROUPS, GROUP).mean(axis=(1, 3))
    apart = likeness[~np.eye(GROUPS, dtype=bool)]
    assert np.diag(likeness).min() > abs(apart).max() + 0.2


def test_large_catalogues_are_counted_alike() -> None:
    dense, sparse = (grouped(kind(), np.random.default_rng(1)) for kind in (CoPlays, SparseCoPlays))
    for one, other in zip(dense, sparse, strict=True):
        assert np.array_equal(one, other)


def test_mutual_information_is_that_of_the_counts_and_never_negative() -> None:
    rows, columns, counts = np.array([1, 1, 2, 3, 3, 4]), np.array([2, 3, 1, 1, 4, 3]), [90, 1, 90, 1, 80, 80]
    found_P = mutual_information(Pairs(rows, columns, np.array(counts, np.float32)), 5)
    plays = {1: 91.0, 2: 90.0, 3: 81.0, 4: 80.0}
    total = sum(count**0.75 for count in plays.values())
    expected = [
        max(0.0, float(np.log(count / (plays[one] * plays[other] ** 0.75 / total)))) / 2
        + max(0.0, float(np.log(count / (plays[other] * plays[one] ** 0.75 / total)))) / 2
        for one, other, count in zip(rows.tolist(), columns.tolist(), counts, strict=True)
    ]
    assert found_P == pytest.approx(expected, rel=1e-5)
    assert min(expected) == 0.0 < max(expected)


def test_without_pairs_and_with_few_titles_there_are_vectors_of_the_same_width() -> None:
    nothing = CoPlays()
    nothing.add(1, [])
    assert not co_vectors(nothing.pairs(3), 3).any()
    nothing.add(2, [1])
    vectors_VD = co_vectors(nothing.pairs(3), 3)
    assert vectors_VD.shape == (3, WIDTH)
    assert vectors_VD[1:].any(axis=1).all()
    assert not vectors_VD[0].any()


def test_titles_that_are_all_alike_begin_without_a_direction() -> None:
    alike = of_co_vectors(np.ones((4, WIDTH), np.float32), 5, UnicornConfig())
    assert alike is not None
    assert not alike.vectors_VD.any()
    assert of_co_vectors(np.zeros((4, WIDTH), np.float32), 5, UnicornConfig()) is None
    assert of_co_vectors(np.ones((4, WIDTH), np.float32), 5, UnicornConfig(co_vectors=False)) is None


def test_the_same_pairs_give_the_same_vectors_and_leave_the_seed_of_training_alone() -> None:
    pairs = grouped(CoPlays(), np.random.default_rng(2))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    vectors = [co_vectors(pairs, 61) for _ in range(2)]
    assert np.array_equal(*vectors)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_number_of_threads_changes_no_bit_of_the_vectors_and_stays_as_it_is() -> None:
    pairs = grouped(CoPlays(), np.random.default_rng(2))
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(co_vectors(pairs, 61))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_nothing_after_the_training_part_is_in_them(small_log: Log) -> None:
    split = split_by_time(small_log)
    earlier = Log(small_log.items, [label for label in small_log.labels if label.ts_ms < split.train_end_ms])
    of_all, of_earlier = (
        build_examples(Replay(log), split, NOTHING, (1, 1), np.random.default_rng(0), Silent()).co_vectors_VD
        for log in (small_log, earlier)
    )
    assert of_all.any()
    assert np.allclose(of_all, of_earlier[: len(of_all)])
