"""Model variants: who gets which, for how long, and what is said of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import SettingsError
from infra.settings import Settings
from serving.experiments import DEFAULT, Experiment, artifact_folder, parse_experiment
from tests.serving.untrained import save_untrained_artifact
from tests.serving.world import make_items, metric, running_scorer, wait_for_ranking, wait_until

pytestmark = pytest.mark.slow

USERS = [f"user-{number}" for number in range(20_000)]


def test_shares_are_kept_and_a_user_stays() -> None:
    experiment = Experiment((("a", 0.3), ("b", 0.1)), "salt")
    variants = [experiment.assign(user) for user in USERS]
    assert variants == [experiment.assign(user) for user in USERS]
    for name, share in (("a", 0.3), ("b", 0.1), (DEFAULT, 0.6)):
        assert variants.count(name) / len(USERS) == pytest.approx(share, abs=0.015)


def test_another_salt_draws_users_independently() -> None:
    first, second = (Experiment((("a", 0.5),), salt) for salt in ("one", "two"))
    both = sum(first.assign(user) == second.assign(user) == "a" for user in USERS)
    assert both / len(USERS) == pytest.approx(0.25, abs=0.015)


def test_a_smaller_share_moves_only_users_to_the_default_variant() -> None:
    large, small = Experiment((("a", 0.5),), "s"), Experiment((("a", 0.2),), "s")
    moved = {(large.assign(user), small.assign(user)) for user in USERS}
    assert moved == {("a", "a"), ("a", DEFAULT), (DEFAULT, DEFAULT)}


def test_a_smaller_share_of_the_first_variant_moves_users_among_those_behind_it() -> None:
    large, small = Experiment((("a", 0.5), ("b", 0.2)), "s"), Experiment((("a", 0.2), ("b", 0.2)), "s")
    moved = {(large.assign(user), small.assign(user)) for user in USERS}
    assert moved == {("a", "a"), ("a", "b"), ("a", DEFAULT), ("b", DEFAULT), (DEFAULT, DEFAULT)}


@pytest.mark.parametrize("text", ["a=0.2,b=0.4,c=0.3,d=0.1", "a=0.7,b=0.2,c=0.1", "a=1"])
def test_shares_may_add_up_to_one_in_decimals(text: str) -> None:
    assert len(parse_experiment(Settings(variants=text)).shares) == text.count("=")


@pytest.mark.parametrize(
    "text", ["a", "a=2", "a=-1", "default=0.5", "A B=0.1", "a=0.6,b=0.6", "a=0.6,b=0.401", "a=0.1,a=0.1"]
)
def test_wrong_variants_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="NOWRANK_VARIANTS"):
        parse_experiment(Settings(variants=text))


def test_each_user_is_answered_by_their_variant_and_the_log_says_so(world_settings: Settings, tmp_path: Path) -> None:
    settings = replace(world_settings, artifact_dir=str(tmp_path / "model"), variants="rival=0.5", experiment_salt="x")
    versions = {
        variant: save_untrained_artifact(artifact_folder(settings, variant), make_items(), seed=seed).version
        for seed, variant in enumerate((DEFAULT, "rival"))
    }
    experiment = parse_experiment(settings)
    with running_scorer(settings) as (process, client):
        wait_until(lambda: set(process.scorer.models) == {DEFAULT, "rival"})
        for user in USERS[:20]:
            asked = {"user_id": user, "task": "pre_query", "id": f"variant-{user}", "limit": 3}
            answer = client.post("/rank", json=asked).json()
            variant = experiment.assign(user)
            assert (answer.get("variant", DEFAULT), answer["model"]) == (variant, versions[variant])
        assert metric(client, 'nowrank_scorer_variant_seconds_count{variant="rival"}') > 0
        rival = next(user for user in USERS if experiment.assign(user) == "rival")
        ranking = wait_for_ranking(settings, f"variant-{rival}")
    assert (ranking.variant, ranking.model) == ("rival", versions["rival"])


def test_a_variant_without_a_model_is_answered_by_the_default_one(world_settings: Settings, artifact_dir: Path) -> None:
    with running_scorer(replace(world_settings, variants="rival=1")) as (_, client):
        answer = client.post("/rank", json={"user_id": "ann", "task": "pre_query", "log": False}).json()
    assert "variant" not in answer
    assert answer["status"]["model"] == "ok"
