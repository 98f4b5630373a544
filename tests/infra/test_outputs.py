"""What cannot be written is said before the work that it is of."""

from pathlib import Path

import pytest

from infra.errors import BadInput
from infra.outputs import check_folder, prepare_file
from nowrank.cli import main

TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "absent", "--json"],
        ["evaluate", "absent", "--out"],
        ["ablate", "absent", "--json"],
        ["ablate", "absent", "--out"],
        ["train", "absent", "--curve"],
        ["train", "absent", "--checkpoint"],
        ["train", "absent", "--out"],
        ["dataset", "absent", "--out"],
        ["train", "history", "absent", "--out"],
        ["evaluate", "history", "absent", "--json"],
        ["simulate", "--members", "2", "--titles", "60", "--days", "1", "--out"],
    ],
)
def test_an_output_that_cannot_be_written_is_said_before_anything_is_read(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("dear")
    assert main([*command, str(tmp_path / "file" / "in" / "it")]) == 1
    said = capsys.readouterr().err
    assert "file is a file; name another path" in said
    assert "absent" not in said
    assert (tmp_path / "file").read_text() == "dear"


@pytest.mark.parametrize("option", ["--curve", "--checkpoint"])
def test_nothing_else_goes_into_the_folder_of_the_artifact_that_later_trainings_replace(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "absent", "--out", str(tmp_path / "x"), option, str(tmp_path / "x" / "y")]) == 1
    assert "is to hold the artifact alone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "ablate"])
def test_a_log_after_json_is_not_taken_for_the_file_to_write(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, titles, old = tmp_path / "plays.csv", tmp_path / "titles.json", tmp_path / "old.json"
    for path in (log, titles, old):
        path.write_text("dear")
    assert main([command, "--json", str(log)]) == 1
    assert "plays.csv would replace a file that is not called .json" in capsys.readouterr().err
    assert main([command, str(log), "--items", str(titles), "--json", str(titles)]) == 1
    assert "titles.json is also what is read" in capsys.readouterr().err
    assert main([command, "absent", "--json", str(old)]) == 1  # a result of before may be written over
    assert "absent" in capsys.readouterr().err
    assert [path.read_text() for path in (log, titles, old)] == ["dear"] * 3
    assert main([command, "absent", "--json", TOO_LONG]) == 1
    assert "File name too long" in capsys.readouterr().err


def test_the_demo_does_not_begin_when_its_figures_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nowrank.demo._get_data", lambda settings: pytest.fail("it began"))
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path))
    assert main(["demo", "--json", str(tmp_path)]) == 1
    assert "is a folder; name a file" in capsys.readouterr().err


def test_a_folder_and_a_file_that_are_missing_can_be_written_and_only_the_folder_of_the_file_is_made(
    tmp_path: Path,
) -> None:
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    prepare_file(tmp_path / "c" / "d" / "e.json")
    assert [path.name for path in (tmp_path / "c").rglob("*")] == ["d"]
    prepare_file(Path("/dev/null"))


def test_a_folder_is_no_file_to_write_and_no_name_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder; name a file"):
        prepare_file(tmp_path)
    for check in (prepare_file, check_folder):
        with pytest.raises(BadInput, match="File name too long"):
            check(tmp_path / TOO_LONG)


def test_what_is_closed_to_the_one_who_writes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # to root nothing is closed
    (tmp_path / "old.json").touch()
    for path in (tmp_path / "old.json", tmp_path / "new.json"):
        with pytest.raises(BadInput, match="closed to you"):
            prepare_file(path)
    with pytest.raises(BadInput, match="closed to you"):
        check_folder(tmp_path / "new")
