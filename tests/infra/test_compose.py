"""docker-compose.yml agrees with the settings, with itself and with Prometheus' configuration."""

import os
import re
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import Settings, load_settings
from serving.commands import DEFAULT_PORT
from tests.infra.watched import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = ("session-worker", "target-worker", "label-worker")
OURS = ("topics", *WORKERS, "scorer", "canary", "trainer")
ONE_SHOT = {"topics", "trainer"}
VARIABLES = {f"NOWRANK_{spec.name.upper()}" for spec in fields(Settings)}


def settings_of(service: str) -> Settings:
    return load_settings(SERVICES[service]["environment"], running_stack=False)


def jobs() -> dict[str, dict[str, Any]]:
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())
    return {job["job_name"]: job for job in config["scrape_configs"]}


def test_every_part_of_the_house_is_a_service() -> None:
    assert set(SERVICES) == {*OURS, "kafka", "redis", "prometheus", "grafana"}


def test_every_variable_is_a_setting() -> None:
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= VARIABLES, name
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    assert set(re.findall(r"\bNOWRANK_[A-Z_]*[A-Z]\b", text)) <= VARIABLES


def test_addresses_are_services_and_the_ports_they_listen_on() -> None:
    listeners = SERVICES["kafka"]["environment"]["KAFKA_LISTENERS"]
    for name in OURS:
        found = settings_of(name)
        assert (found.kafka, found.redis) == ("kafka:9092", "redis:6379"), name
        assert found.scorer_url == f"http://scorer:{settings_of('scorer').scorer_port}", name
    assert "INTERNAL://:9092" in listeners
    assert "INTERNAL://kafka:9092" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_our_services_agree_on_partitions_and_on_the_artifact() -> None:
    assert len({settings_of(name).partitions for name in OURS}) == 1
    paths = {settings_of(name).artifact_path for name in ("scorer", "trainer")}
    assert len(paths) == 1
    (path,) = paths
    for name in ("scorer", "trainer"):
        volume, mount = SERVICES[name]["volumes"][0].split(":")[:2]
        assert volume == "artifacts"
        assert str(path.parent) == mount, "an artifact is swapped by renaming its folder, which cannot be the mount"


def test_scorer_worker_and_canary_listen_where_others_look_for_them() -> None:
    scorer, worker, canary = settings_of("scorer"), settings_of("session-worker"), settings_of("canary")
    assert (scorer.scorer_host, scorer.scorer_port) == ("0.0.0.0", DEFAULT_PORT)
    assert SERVICES["scorer"]["ports"] == [f"127.0.0.1:{DEFAULT_PORT}:{scorer.scorer_port}"]
    assert jobs()["scorer"]["static_configs"] == [{"targets": [f"scorer:{scorer.scorer_port}"]}]
    assert worker.metrics_host == canary.metrics_host == "0.0.0.0"
    assert jobs()["canary"]["static_configs"] == [{"targets": [f"canary:{canary.canary_port}"]}]
    (dns,) = jobs()["worker"]["dns_sd_configs"]
    assert (dns["names"], dns["type"], dns["port"]) == (list(WORKERS), "A", worker.metrics_port)
    listening = (
        ("scorer", scorer.scorer_port),
        ("session-worker", worker.metrics_port),
        ("canary", canary.canary_port),
    )
    for name, port in listening:
        assert f"'127.0.0.1', {port}" in SERVICES[name]["healthcheck"]["test"][-1]
    assert set(jobs()) == {"worker", "scorer", "canary", "prometheus"}


def test_our_services_run_commands_that_exist() -> None:
    from nowrank.cli import COMMANDS

    for name in OURS:
        for command in re.findall(r"nowrank ([a-z-]+)", " ".join(SERVICES[name]["command"])):
            assert command in COMMANDS, name


def test_retraining_runs_where_torch_is_and_keeps_its_candidate_on_the_artifacts_volume() -> None:
    page = (ROOT / "docs" / "retraining.md").read_text()
    [script] = re.findall(r"docker compose run --rm --build trainer sh -c \\\n +'(.+)'", page)
    [candidate] = set(re.findall(r"/\S+", script))
    artifacts = settings_of("trainer").artifact_path
    assert Path(candidate).parent == artifacts.parent
    assert Path(candidate) != artifacts
    assert re.findall(r"nowrank (\w+)", script) == ["train", "promote"]


def test_operations_excepts_the_commands_that_the_scorers_image_cannot_run() -> None:
    from nowrank.cli import COMMANDS

    page = (ROOT / "docs" / "operations.md").read_text()
    [excepted] = re.findall(
        r"`docker compose exec scorer nowrank \.\.\.` \(but (.+?) as `docker compose run", page, re.DOTALL
    )
    of_the_model = {name.split()[0] for name, (module, _) in COMMANDS.items() if module.startswith("model.")}
    assert set(re.findall(r"`(\w+)`", excepted)) == of_the_model


def test_every_lasting_service_has_a_health_check_and_comes_back() -> None:
    for name, service in SERVICES.items():
        lasts = name not in ONE_SHOT
        assert ("healthcheck" in service) == lasts, name
        assert service["restart"] == ("unless-stopped" if lasts else "no"), name


def test_each_stage_has_workers_that_are_alike_in_all_else() -> None:
    session, target, labels = map(settings_of, WORKERS)
    assert [one.stage_names for one in (session, target, labels)] == [("session",), ("target",), ("labels",)]
    assert replace(session, stages="") == replace(target, stages="") == replace(labels, stages="")


def test_what_is_not_always_wanted_has_a_profile_of_its_own() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"label-worker": ["labels"], "trainer": ["train"]}


def test_workers_scorer_and_canary_wait_for_healthy_servers_and_topics() -> None:
    for name in (*WORKERS, "scorer", "canary"):
        assert SERVICES[name]["depends_on"] == {
            "kafka": {"condition": "service_healthy"},
            "redis": {"condition": "service_healthy"},
            "topics": {"condition": "service_completed_successfully"},
        }
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


def test_every_image_is_pinned() -> None:
    images = [service["image"] for service in SERVICES.values()]
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    images += re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image


def test_ports_are_open_on_loopback_only_and_only_once() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len(set(ports)) == len(ports)


def test_state_lives_in_named_volumes() -> None:
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in mounted if not name.startswith("./")} == set(COMPOSE["volumes"])
    for source in (name for name in mounted if name.startswith("./")):
        assert (ROOT / source).exists(), source


def test_redis_keeps_what_it_was_given() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_file_holds_no_password_and_grafana_has_no_account() -> None:
    assert not re.search(r"password\s*[:=]", (ROOT / "docker-compose.yml").read_text(), re.IGNORECASE)
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_image_holds_what_it_copies_and_every_room() -> None:
    ignore = (ROOT / "infra" / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert {
        "infra",
        "features",
        "streams",
        "model",
        "serving",
        "nowrank",
        "pyproject.toml",
        "requirements.lock",
    } <= kept
    assert all((ROOT / name).exists() for name in kept)


def test_docker_compose_accepts_the_file() -> None:
    if shutil.which("docker") is None or _compose("version").returncode != 0:
        pytest.skip("docker compose is not here")
    checked = _compose("--profile", "train", "--profile", "labels", "config", "--quiet")
    assert checked.returncode == 0, checked.stderr


def _compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)
