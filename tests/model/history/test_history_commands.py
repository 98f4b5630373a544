"""`nowrank train history` from a log: the cut that `nowrank train` can begin from, and what has no times to cut by."""

from pathlib import Path

import pytest

from infra.clock import now_ms
from model.examples import split_by_time
from model.history.run_folder import load_encoder
from nowrank.cli import main
from streams.sources.log_files import LogSource, load_log
from tests.model.history.test_histories import write_sample

SMALL = ["--epochs", "1", "--width", "8", "--heads", "1", "--blocks", "1", "--length", "4", "--core", "3"]


def write_clicks(path: Path) -> Path:
    """20 users go round 12 titles, a minute between clicks."""
    lines = ["type,user_id,item_id,event_ts_ms"]
    for step in range(8):
        lines += [
            f"click,u{user},t{(user + step) % 12},{1_700_000_000_000 + 60_000 * (20 * step + user)}"
            for user in range(20)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_run_over_the_training_part_keeps_where_it_was_cut(tmp_path: Path) -> None:
    log_path = str(write_clicks(tmp_path / "clicks.csv"))
    for part in ("train", "all"):
        assert main(["train", "history", log_path, "--part", part, "--out", str(tmp_path / part), *SMALL]) == 0
    cut, whole = (load_encoder(tmp_path / part)[1] for part in ("train", "all"))
    assert cut.before_ms == split_by_time(load_log(LogSource(log_path), tmp_path, now_ms())).train_end_ms
    assert whole.before_ms is None
    assert cut.histories != whole.histories


def test_a_run_goes_on_only_with_the_part_that_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_path, run = str(write_clicks(tmp_path / "clicks.csv")), str(tmp_path / "run")
    assert main(["train", "history", log_path, "--out", run, *SMALL]) == 0
    assert main(["train", "history", log_path, "--out", run, "--part", "train", "--resume", *SMALL]) == 1
    assert "saw histories" in capsys.readouterr().err


def test_an_order_without_times_has_no_part_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(tmp_path)
    assert main(["train", "history", str(tmp_path), "--part", "train", "--out", str(tmp_path / "run"), *SMALL]) == 1
    assert "--part all" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_order_without_times_is_read_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(tmp_path)
    described = ["--items", str(tmp_path / "absent.csv"), "--hours", "3", "--max-events", "9"]
    assert main(["train", "history", str(tmp_path), "--out", str(tmp_path / "run"), *described, *SMALL]) == 1
    assert f"--items, --max-events, --hours cannot go with {tmp_path}, which" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--learning-rate", "--weight-decay", "--temperature", "--stochastic-length"])
@pytest.mark.parametrize("said", ["nan", "inf", "-1"])
def test_a_number_that_no_run_can_be_trained_with_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "history", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "run"), f"{option}={said}"])
    assert ended.value.code == 2
    assert f"argument {option}: '{said}' is no finite number" in capsys.readouterr().err
