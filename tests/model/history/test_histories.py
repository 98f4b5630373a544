import gzip
from pathlib import Path

import pytest

from infra.errors import BadInput
from model.examples import split_by_time
from model.history.histories import Histories, histories_of_log, leave_one_out, load_movielens_order
from tests.model.small_log import make_log

SAMPLE = [
    ("2", 0, "30"), ("1", 1, "10"), ("1", 0, "20"), ("1", 2, "30"), ("2", 1, "10"), ("2", 10, "20"), ("2", 2, "99"),
]  # fmt: skip


def write_sample(folder: Path, header: str = "user_id\tpos\tmovie_id\trating") -> Path:
    lines = [header, *(f"{user}\t{place}\t{movie}\t4" for user, place, movie in SAMPLE)]
    with gzip.open(folder / "ratings_ordered.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return folder


def by_user(histories: Histories) -> dict[str, list[str]]:
    begins = histories.begins_U1
    return {
        user: [histories.titles[item - 1] for item in histories.items_N[begins[row] : begins[row + 1]]]
        for row, user in enumerate(histories.users)
    }


def test_a_file_is_read_in_the_order_of_its_positions(tmp_path: Path) -> None:
    histories = load_movielens_order(write_sample(tmp_path), core=1)
    assert by_user(histories) == {"1": ["20", "10", "30"], "2": ["30", "10", "99", "20"]}
    assert histories.times_N is None


def test_a_core_leaves_out_what_is_rare(tmp_path: Path) -> None:
    histories = load_movielens_order(write_sample(tmp_path), core=2)
    assert by_user(histories) == {"1": ["20", "10", "30"], "2": ["30", "10", "20"]}


def test_a_file_that_is_missing_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ratings_ordered"):
        load_movielens_order(tmp_path, core=1)
    with pytest.raises(BadInput, match="columns"):
        load_movielens_order(write_sample(tmp_path, header="a\tb"), core=1)


def test_the_last_item_tests_and_the_one_before_validates(tmp_path: Path) -> None:
    split = leave_one_out(load_movielens_order(write_sample(tmp_path), core=1))
    title = split.train.titles
    assert by_user(split.train) == {"1": ["20"], "2": ["30", "10"]}
    assert [title[item - 1] for item in split.validation_U] == ["10", "99"]
    assert by_user(split.before_test) == {"1": ["20", "10"], "2": ["30", "10", "99"]}
    assert [title[item - 1] for item in split.test_U] == ["30", "20"]


def test_times_stay_with_their_items() -> None:
    histories = Histories.of({"a": [(1, 10), (2, 20), (1, 30)], "b": [(2, 5)]}, ["x", "y"])
    assert histories.times_N is not None
    shorter = histories.without_last(1)
    assert shorter.times_N is not None
    assert shorter.items_N.tolist() == [1, 2]
    assert shorter.times_N.tolist() == [10, 20]
    assert shorter.lengths_U.tolist() == [2, 0]


def test_a_history_too_short_to_split_is_refused() -> None:
    with pytest.raises(BadInput, match="1 of 2 users"):
        leave_one_out(Histories.of({"a": [(1, None)] * 3, "b": [(1, None)] * 2}, ["x"]))


def test_histories_of_which_a_core_left_nothing_ask_for_a_smaller_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing is left .* smaller --core") as caught:
        leave_one_out(load_movielens_order(write_sample(tmp_path), core=100))
    assert "larger" not in caught.value.message


def test_only_equal_histories_share_a_fingerprint() -> None:
    one, same = (Histories.of({"a": [(1, None), (2, None)]}, ["x", "y"]) for _ in range(2))
    other = Histories.of({"a": [(2, None), (1, None)]}, ["x", "y"])
    timed = Histories.of({"a": [(1, 1), (2, 2)]}, ["x", "y"])
    assert one.fingerprint() == same.fingerprint()
    assert len({one.fingerprint(), other.fingerprint(), timed.fingerprint()}) == 3


def test_a_log_cut_by_time_gives_what_came_before_with_its_times() -> None:
    log = make_log(users=6)
    cut_ms = split_by_time(log).train_end_ms
    cut, whole = histories_of_log(log, core=1, before_ms=cut_ms), histories_of_log(log, core=1)
    seen = [label for label in log.labels if label.ts_ms < cut_ms]
    assert len(cut.items_N) == len(seen) < len(whole.items_N) == len(log.labels)
    expected: dict[str, list[str]] = {}
    for label in seen:
        expected.setdefault(label.user_id, []).append(label.item_id)
    assert by_user(cut) == expected
    assert cut.times_N is not None
    assert sorted(cut.times_N.tolist()) == [label.ts_ms // 1000 for label in seen]
