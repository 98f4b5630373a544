from pathlib import Path

import numpy as np
import pytest

from model.neighbours import SHRINKAGE, WINDOW, CoPlays, NeighbourTable, Sources


def _plays(users: int = 12, titles: int = 30, plays: int = 15) -> list[tuple[int, list[int]]]:
    """(title, the user's last WINDOW titles before it) in the order of play, users mixed."""
    rng = np.random.default_rng(0)
    orders = [[int(title) for title in rng.permutation(np.arange(1, titles))[:plays]] for _ in range(users)]
    return [(order[at], order[max(0, at - WINDOW) : at]) for at in range(plays) for order in orders]


def _counted(plays: list[tuple[int, list[int]]], capacity: int = 4) -> CoPlays:
    counts = CoPlays(capacity)
    for played, recent in plays:
        counts.add(played, recent)
    return counts


def test_counts_that_grow_play_by_play_equal_counts_in_one_go() -> None:
    plays = _plays()
    counts = _counted(plays)
    expected = np.zeros((30, 30))
    for played, recent in plays:
        for before in recent:
            expected[before, played] += 1
            expected[played, before] += 1
    assert np.array_equal(counts.counts_VV[:30, :30], expected)
    assert counts.plays_V[:30].tolist() == np.bincount([played for played, _ in plays], minlength=30).tolist()


def test_a_score_is_the_shrunk_cosine() -> None:
    counts = _counted([(1, []), (2, [1]), (2, [1]), (3, [2])])
    score = counts.scores(Sources(np.array([1]), np.array([2.0], np.float32)), np.array([2, 3]))
    assert score.tolist() == pytest.approx([2 * 2 / np.sqrt((1 + SHRINKAGE) * (2 + SHRINKAGE)), 0.0])


def test_the_sparse_table_scores_as_the_counts_do_also_after_saving(tmp_path: Path) -> None:
    counts = _counted(_plays())
    table = counts.table(30)
    table.save(tmp_path / "neighbours.npz")
    loaded = NeighbourTable.load(tmp_path / "neighbours.npz")
    sources = Sources(np.array([3, 7, 9]), np.array([1.0, 0.5, 2.0], np.float32))
    for candidates in (np.arange(30), np.array([4, 4, 0, 12])):
        assert loaded.scores(sources, candidates) == pytest.approx(counts.scores(sources, candidates), abs=1e-6)


def test_several_sources_are_scored_together_as_each_alone() -> None:
    table = _counted(_plays()).table(30)
    each = [
        Sources(np.array(slots, np.int64), np.linspace(1.0, 0.5, len(slots), dtype=np.float32))
        for slots in ([3, 7, 9], [], [4])
    ]
    alone = [table.scores(sources, np.arange(30)) for sources in each]
    assert alone[0].any()
    assert np.array_equal(table.scores_of_each(each, np.arange(30)), np.stack(alone))


@pytest.mark.parametrize("titles", [30, 5_000])  # among few titles, and so many that the table is sparse
def test_the_neighbours_of_sources_are_all_titles_with_a_score(titles: int) -> None:
    table = _counted(_plays()).table(titles)
    sources = Sources(np.array([3, 7, 9]), np.array([1.0, 0.5, 2.0], np.float32))
    scores_N = table.scores(sources, np.arange(titles))
    found_N, near_N = table.near(sources)
    assert found_N.tolist() == np.flatnonzero(scores_N).tolist()
    assert near_N == pytest.approx(scores_N[found_N])
    nothing = Sources(np.array([], np.int64), np.array([], np.float32))
    assert [len(part) for part in table.near(nothing)] == [0, 0]


def test_no_source_and_no_title_score_zero() -> None:
    counts = _counted(_plays())
    nothing = Sources(np.array([], np.int64), np.array([], np.float32))
    assert not counts.scores(nothing, np.arange(5)).any()
    assert not counts.table(30).scores(nothing, np.arange(5)).any()
    assert counts.table(30).scores(Sources(np.array([0]), np.ones(1, np.float32)), np.arange(30)).max() == 0
