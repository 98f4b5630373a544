"""The front door: every command explains itself, and each role loads only what it needs."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nowrank
from nowrank.cli import COMMANDS, build_parser, main

ROOT = Path(__file__).parents[2]
LOADED = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser(command).parse_args([command, "--help"])
    assert ended.value.code == 0
    assert f"nowrank {command}" in capsys.readouterr().out.split("\n\n", 1)[1]


def test_an_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["levitate"])
    assert ended.value.code == 2
    assert "rank" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["0", "-3", "1.5", "many"])
def test_how_many_is_a_whole_number_from_1_on(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", f"--epochs={said}"])
    assert ended.value.code == 2
    assert f"'{said}' is no whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["-0.1", "1.01", "half", "nan"])
def test_a_share_is_from_0_to_1(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", f"--id-dropout={said}"])
    assert ended.value.code == 2
    assert f"'{said}' is no share from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["dataset", "train", "train history", "evaluate", "evaluate history", "ablate", "promote"]
)
@pytest.mark.parametrize("said", ["-1", "1.5", "4294967296", "lucky"])
def test_a_seed_is_a_whole_number_from_0_on_for_every_command(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), f"--seed={said}"])
    assert ended.value.code == 2
    assert f"'{said}' is no whole number from 0 to 4294967295" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["promote", "built", "--margin"], "finite number from 0 on"),
        (["promote", "built", "--ece"], "finite number from 0 on"),
        (["train", "--budget-s"], "finite number from 0 on"),
        (["train", "history", "--budget-s"], "finite number from 0 on"),
        (["evaluate", "--hours"], "finite number above 0"),
    ],
)
@pytest.mark.parametrize("said", ["-0.1", "nan", "inf", "some"])
def test_what_is_measured_is_a_number_that_can_be_compared_with(
    words: list[str], rule: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *command, option = words
    with pytest.raises(SystemExit) as ended:
        main([*command, f"{option}={said}"])
    assert ended.value.code == 2
    assert f"'{said}' is no {rule}" in capsys.readouterr().err


def test_no_hours_are_no_part_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--hours=0"])
    assert ended.value.code == 2
    assert "'0' is no finite number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["import --dry-run", "train", "evaluate", "dataset --out built"])
def test_one_field_is_not_made_of_two_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *rest = command.split()
    assert main([name, "plays.csv", *rest, "--map", "customer=user_id", "--map", "member=user_id"]) == 1
    assert "--map member=user_id: 'member' or 'user_id' is mapped twice" in capsys.readouterr().err


def test_a_command_that_fails_says_why_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("NOWRANK_KAFKA", raising=False)
    assert main(["topics", "list"]) == 1
    assert capsys.readouterr().err.startswith("nowrank: no broker is set")


@pytest.mark.parametrize(
    ("command", "redis"),
    [
        ("features show u", "127.0.0.1:1,password=hunter2"),
        ("features show u", "redis:1,password=a,hunter2"),
        ("verify", "redis,password=hunter2"),
        ("rebuild", "127.0.0.1:1,password=hunter2"),
        ("rebuild", "redis,password=hunter2"),
        ("skew", "redis,password=hunter2"),
        ("canary", "redis,password=hunter2"),
        ("canary", "redis:1,password=a,hunter2"),
    ],
)
def test_the_stores_password_is_in_no_error(
    command: str, redis: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOWRANK_REDIS", redis)
    monkeypatch.setenv("NOWRANK_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("NOWRANK_STATE_DIR", str(tmp_path))
    assert main(command.split()) != 0
    said = "".join(capsys.readouterr())
    assert "nowrank: " in said
    assert "hunter2" not in said


def test_a_command_of_two_words_goes_before_the_one_of_its_first_word(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "history", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "is a folder that holds no .parquet file" in capsys.readouterr().err


def loaded_by(statement: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"{statement}; {LOADED}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_producer_loads_kafka_python_and_msgspec_and_nothing_heavy() -> None:
    loaded = loaded_by("from nowrank import Producer")
    assert {"kafka", "msgspec"} <= loaded
    assert not loaded & {
        "numpy",
        "torch",
        "faust",
        "aiokafka",
        "feast",
        "redis",
        "prometheus_client",
        "onnxruntime",
        "httpx",
    }


def test_a_scorer_loads_neither_torch_nor_faust_nor_feast() -> None:
    loaded = loaded_by("import serving.api, serving.process")
    assert not loaded & {"torch", "faust", "feast", "onnx", "pandas"}


def test_a_worker_loads_neither_torch_nor_feast() -> None:
    assert not loaded_by("import streams.app") & {"torch", "feast", "onnxruntime", "pandas"}


def test_training_and_promoting_load_nothing_of_a_store_a_worker_or_a_scorer() -> None:
    loaded = loaded_by("import model.train_served, model.evaluate, model.promotion, model.served_commands")
    assert "torch" in loaded
    assert not loaded & {"redis", "faust", "feast", "httpx", "prometheus_client", "starlette", "uvicorn"}


def test_the_extra_stack_brings_all_that_nowrank_up_starts() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "nowrank[scorer,worker]" in extras["stack"]


def test_onnx_runtime_leaves_no_usage_data_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", "import model.artifact"], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]


def test_the_front_door_names_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="Broducer"):
        nowrank.Broducer  # noqa: B018
