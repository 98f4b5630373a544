"""Settings: where a value comes from, and the page that documents them."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from infra.commands import settings_page
from infra.embedded.stack_file import (
    TARGETS_FILE,
    end_leftovers,
    hold_lock,
    running_stack,
    write_stack,
    write_targets,
)
from infra.errors import SettingsError, StackError
from infra.settings import Settings, child_environment, load_settings, settings_table
from nowrank.cli import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def stack_dir(tmp_path: Path) -> Iterator[Path]:
    """The folder of a stack that lives."""
    with hold_lock(tmp_path):
        write_stack(tmp_path, {"pid": os.getpid(), "kafka": "127.0.0.1:1", "redis": "127.0.0.1:2", "scorer_url": ""})
        yield tmp_path


def test_defaults_hold_when_nothing_is_set() -> None:
    assert load_settings({}, running_stack=False) == Settings()


def another_value(spec: "Field[Any]") -> object:
    """A value that is not the default."""
    if spec.metadata["choices"]:
        return spec.metadata["choices"][-1]
    if spec.name == "kafka":
        return "kafka:9092,kafka:9093"
    if isinstance(spec.default, float):
        return 0.5 if spec.metadata["maximum"] == 1 else 2.5
    return {str: "text", int: 7}.get(type(spec.default), Path("folder"))


def test_every_setting_can_be_set_and_reaches_a_child_unchanged() -> None:
    wanted = Settings(**{spec.name: another_value(spec) for spec in fields(Settings)})
    assert load_settings(child_environment(wanted)) == wanted


def test_empty_variable_means_the_default() -> None:
    assert load_settings({"NOWRANK_WORKERS": ""}, running_stack=False).workers == Settings().workers


def test_zero_is_a_value_and_not_the_default() -> None:
    assert load_settings({"NOWRANK_FUTURE_LIMIT_S": "0"}).future_limit_s == 0


def test_value_of_the_wrong_type_is_refused_with_its_name_and_its_text() -> None:
    with pytest.raises(SettingsError, match=r"NOWRANK_WORKERS is 'two'; it must be of type int"):
        load_settings({"NOWRANK_WORKERS": "two"})


NUMBERS = [spec for spec in fields(Settings) if isinstance(spec.default, int | float)]


@pytest.mark.parametrize("spec", NUMBERS, ids=lambda spec: spec.name)
def test_a_number_out_of_its_range_is_refused_with_its_name_its_text_and_the_range(spec: "Field[Any]") -> None:
    variable, minimum, maximum = f"NOWRANK_{spec.name.upper()}", spec.metadata["minimum"], spec.metadata["maximum"]
    for inside in (minimum, spec.default, minimum if maximum is None else maximum):
        assert getattr(load_settings({variable: str(inside)}, running_stack=False), spec.name) == inside
    outside = [str(minimum - 1), "-3600", *(() if maximum is None else (str(maximum + 1),)), "9" * 400]
    for text in outside:
        with pytest.raises(SettingsError, match=rf"^{variable} is '{text}'; it must be .*\b{minimum}\b"):
            load_settings({variable: text}, running_stack=False)
    for text in ("nan", "inf", "-inf"):
        with pytest.raises(SettingsError, match=rf"^{variable} is '{text}'; it must be "):
            load_settings({variable: text}, running_stack=False)


def test_a_log_level_is_one_of_those_that_there_are_in_any_case() -> None:
    assert load_settings({"NOWRANK_LOG_LEVEL": "warning"}, running_stack=False).log_level == "WARNING"
    with pytest.raises(SettingsError, match="NOWRANK_LOG_LEVEL is 'loud'; it must be DEBUG, INFO, WARNING or ERROR"):
        load_settings({"NOWRANK_LOG_LEVEL": "loud"})


@pytest.mark.parametrize("kafka", ["garbage", "127.0.0.1:99999", "kafka:9092,", "kafka:9092,other", "kafka://k:9092"])
@pytest.mark.parametrize("command", ["canary", "scorer", "worker", "topics list", "verify", "rank --user u"])
def test_what_is_no_address_of_a_broker_is_refused_by_every_command(
    kafka: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOWRANK_KAFKA", kafka)
    monkeypatch.setenv("NOWRANK_REDIS", "127.0.0.1:1")
    assert main(command.split()) != 0
    assert capsys.readouterr().err == (
        f"nowrank: NOWRANK_KAFKA is {kafka!r}; it must be host:port, the port between 1 and 65535\n"
    )


def test_brokers_may_stand_apart() -> None:
    found = load_settings({"NOWRANK_KAFKA": " a:9092, [::1]:9093 "}, running_stack=False)
    assert found.kafka == "a:9092,[::1]:9093"


def test_running_stack_gives_the_addresses(stack_dir: Path) -> None:
    found = load_settings({"NOWRANK_STATE_DIR": str(stack_dir)})
    assert (found.kafka, found.redis) == ("127.0.0.1:1", "127.0.0.1:2")


def test_environment_wins_over_the_running_stack(stack_dir: Path) -> None:
    found = load_settings({"NOWRANK_STATE_DIR": str(stack_dir), "NOWRANK_KAFKA": "kafka:9092"})
    assert (found.kafka, found.redis) == ("kafka:9092", "127.0.0.1:2")


def test_command_that_starts_a_stack_sees_only_what_the_user_gave(stack_dir: Path) -> None:
    assert load_settings({"NOWRANK_STATE_DIR": str(stack_dir)}, running_stack=False).kafka == ""


def test_stack_file_that_a_dead_supervisor_left_does_not_count(tmp_path: Path) -> None:
    # The recorded process lives (it is this one), but nobody holds the lock: a process number alone proves nothing.
    write_stack(tmp_path, {"pid": os.getpid(), "kafka": "127.0.0.1:1"})
    assert load_settings({"NOWRANK_STATE_DIR": str(tmp_path)}).kafka == ""


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x80",
    b"[" * 100_000,
    b'{"kafka": 5}',
    b'{"processes": 5}',
    b'{"state": "running", "pid": 1, "kafka": "", "redis": "", "scorer_url": "", "processes": [{"pid": -5}]}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_stack_file_does_not_count(stack_dir: Path, content: bytes) -> None:
    (stack_dir / "stack.json").write_bytes(content)
    assert load_settings({"NOWRANK_STATE_DIR": str(stack_dir)}).kafka == ""


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_stack_file_of_a_stack_that_lives_is_told_and_does_not_hide_whom_to_end(
    stack_dir: Path, content: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(stack_dir))
    (stack_dir / "stack.json").write_bytes(content)
    assert main(["status"]) == 1
    assert main(["up"]) == 1
    shown, said = capsys.readouterr()
    assert "stack.json is damaged: what runs cannot be told from it. `nowrank down` ends the stack" in said
    assert "started again" not in said
    assert len(re.findall(r"stack.json +damaged .*`nowrank down` ends the stack", shown)) == 2
    running = running_stack(stack_dir)
    assert running is not None
    assert running["pid"] == os.getpid()


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_stack_file_that_a_dead_supervisor_left_hinders_nobody(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path))
    (tmp_path / "stack.json").write_bytes(content)
    assert main(["status"]) == 1
    assert main(["down"]) == 0
    assert capsys.readouterr().out.count("no stack is running") == 2
    (tmp_path / "stack.json").write_bytes(content)
    with hold_lock(tmp_path):
        running = running_stack(tmp_path)
        assert running is not None
        assert running["state"] == "starting", "the next one's is not written yet"
        assert end_leftovers(tmp_path) == []


def test_part_that_a_dead_supervisor_could_not_start_is_not_taken_for_the_process_that_looks(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, pathlib, sys, psutil
        from infra.embedded.stack_file import end_leftovers, write_stack
        began_ms = int(psutil.Process().create_time() * 1000)
        part = {"name": "redis", "state": "failed", "pid": None, "address": "", "restarts": 0, "started_ms": began_ms}
        addresses = {"kafka": "", "redis": "", "scorer_url": ""}
        stack = {**addresses, "state": "starting", "pid": os.getpid(), "processes": [part]}
        write_stack(pathlib.Path(sys.argv[1]), stack)
        print(end_leftovers(pathlib.Path(sys.argv[1])))
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    looked = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert (looked.returncode, looked.stdout) == (0, "[]\n")


@pytest.mark.parametrize("below", ["", "below"])
@pytest.mark.parametrize("command", ["up", "down", "status", "rank --user u"])
def test_state_folder_that_is_a_file_is_refused_with_what_to_do(
    tmp_path: Path, below: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path / "file" / below))
    assert main(command.split()) == 1
    assert "cannot be used: Not a directory; set NOWRANK_STATE_DIR to a folder" in capsys.readouterr().err


def test_state_folder_that_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "folder")
    with (
        pytest.raises(StackError, match=r"gone cannot be used: .*; set NOWRANK_STATE_DIR"),
        hold_lock(tmp_path / "gone"),
    ):
        pytest.fail("there is no folder to hold")


def test_documented_page_is_the_generated_one() -> None:
    assert (REPOSITORY / "docs" / "settings.md").read_text() == settings_page(), "run `make docs`"


def test_every_setting_is_in_the_table() -> None:
    for spec in fields(Settings):
        assert f"`NOWRANK_{spec.name.upper()}`" in settings_table()


def test_settings_command_prints_values_in_force_and_hides_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOWRANK_REDIS", "redis:6379,db=1,password=secret")
    monkeypatch.setenv("NOWRANK_WORKERS", "3")
    assert main(["settings"]) == 0
    shown = capsys.readouterr().out
    assert "redis:6379,db=1,password=***" in shown
    assert "secret" not in shown
    assert "secret" not in repr(load_settings())
    assert any(line.split()[:2] == ["NOWRANK_WORKERS", "3"] for line in shown.splitlines())


def test_stack_file_which_may_hold_a_password_is_for_its_owner_only(stack_dir: Path) -> None:
    assert (stack_dir / "stack.json").stat().st_mode & 0o077 == 0


def test_targets_are_for_a_prometheus_of_any_user(stack_dir: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_targets(stack_dir, {"worker": ["127.0.0.1:1"]})
    finally:
        os.umask(umask)
    assert (stack_dir / TARGETS_FILE).stat().st_mode & 0o777 == 0o644


def test_stack_file_is_json_that_other_programs_can_read(stack_dir: Path) -> None:
    assert json.loads((stack_dir / "stack.json").read_text())["kafka"] == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        ("session,target", ("session", "target")),
        ("target, session", ("session", "target")),
        ("target", ("target",)),
        ("labels", ("labels",)),
    ],
)
def test_a_worker_runs_the_stages_that_it_is_told(stages: str, names: tuple[str, ...]) -> None:
    assert Settings(stages=stages).stage_names == names


@pytest.mark.parametrize("stages", ["", "sessions", "session,,", "session;target", "session,labels"])
def test_unknown_stages_are_refused(stages: str) -> None:
    with pytest.raises(SettingsError, match="it must be session, target or both"):
        _ = Settings(stages=stages).stage_names
