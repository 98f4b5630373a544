"""The demo: the main job, from real data to rankings that change, each step real and each figure measured in this run.

Enters: a data set, an empty machine. Leaves: a running stack (with `--keep`), a table, a JSON file. Called by `nowrank
demo` and `make demo`.
"""

import argparse
import json
import platform
import shutil
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.clock import monotonic_s, now_ms
from infra.errors import NowrankError
from infra.outputs import prepare_file
from infra.settings import Settings, load_settings
from nowrank.demo_report import print_table, verdict

if TYPE_CHECKING:
    from serving.client import Scorer
    from streams.labels import Log

EXAMPLES = """examples:
  nowrank demo                       the whole main job, in under ten minutes on two cores
  nowrank demo --json demo.json      the figures as JSON as well
  nowrank demo --keep                leave the stack running, for `nowrank rank` and `nowrank down`"""

TRAIN_BUDGET_S = 150.0
EVALUATED_LABELS_PER_TASK = 300
RANK_REQUESTS = 200
MODEL_TIMEOUT_S = 60.0


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nowrank demo`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--keep", action="store_true", help="leave the stack running afterwards")
    parser.epilog = EXAMPLES


def demo(args: argparse.Namespace) -> int:
    """Play the main job; any step that did not really happen raises."""
    from infra.embedded.control import start_stack, stop_stack
    from infra.embedded.stack_file import running_stack

    if args.json is not None:
        prepare_file(args.json)
    given = load_settings(running_stack=False)
    # Its own servers and its own artifact folder: it empties the one and deletes the other.
    settings = replace(given, state_dir=given.state_dir.resolve(), kafka="", redis="", scorer_url="", artifact_dir="")
    if running_stack(settings.state_dir) is not None:
        raise NowrankError("a stack is running here; the demo starts its own, empty one: `nowrank down` first")
    begin_s = monotonic_s()
    folder = _get_data(settings)
    _say("2  the embedded stack")
    _forget_artifact(settings)
    stack = start_stack(settings, tied=not args.keep, say=lambda line: print(f"   {line}", flush=True))
    is_done = False
    try:
        figures = _play(
            replace(settings, **{name: stack[name] for name in ("kafka", "redis", "scorer_url")}), stack, folder
        )
        figures["took_s"] = round(monotonic_s() - begin_s, 1)
        is_done = True
    finally:
        if not (args.keep and is_done):
            stop_stack(settings, say=lambda line: print(f"   {line}", flush=True))
    print_table(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"the same as JSON: {args.json}")
    if args.keep:
        print("the stack is still running: `nowrank status`, `nowrank rank --user 1 --task pre_query`, `nowrank down`")
    return verdict(figures)


def _play(settings: Settings, stack: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Steps 3 to 10, on the running stack."""
    from model.evaluate import Scope, evaluate_artifact
    from model.progress import shown_progress
    from model.train import train_on_log
    from nowrank.demo_replay import percentile, play_live, replay
    from serving.client import Scorer
    from streams.sources.movielens import load_movielens

    log = load_movielens(folder, now_ms())
    _say(
        f"3  {len(log.labels):,} ratings as {len(log.events):,} derived events, moved by "
        f"{log.shift_ms / 86_400_000:.0f} days, through Kafka"
    )
    with shown_progress() as progress:
        replayed = replay(settings, stack["worker_metrics_urls"], log, progress)
    print(
        f"   {replayed.events_per_s:,.0f} events/s through both stages; all item rows hold the log's clicks and plays"
    )
    _say("4  Feast: apply the registry, read the same rows through its SDK")
    _check_feast(settings, log)
    _say("5  UniCoRn: train on the replayed log, export to ONNX")
    with shown_progress() as progress:
        report = train_on_log(log, settings.artifact_path, budget_s=TRAIN_BUDGET_S, progress=progress)
    print(
        f"   data set {report.data_s:.0f} s, training {report.fit_s:.0f} s, {len(report.train_losses)} epochs: "
        f"artifact {report.card.version}"
    )
    with Scorer(settings.scorer_url, timeout_s=10) as scorer:
        _await_model(scorer, report.card.version)
        figures = _play_scene(settings, scorer, log)
        _say("7  live: freshness")
        with shown_progress() as progress:
            freshness = play_live(settings, log, progress)
        _say("8  /rank with 100 and 500 given candidates")
        rank_ms = {str(count): _time_rank(scorer, log, count) for count in (100, 500)}
    _say("9  verify: recompute the whole log and compare every row of the store with it")
    verified = _verify(settings)
    _say("10 evaluation on the held-out last days, full ranking")
    with shown_progress() as progress:
        scope = Scope(max_labels=EVALUATED_LABELS_PER_TASK, without=("ials", "sasrec"))
        evaluation = evaluate_artifact(log, settings.artifact_path, scope, progress)
    pre_query = evaluation["tasks"]["pre_query"]
    return {
        "events": replayed.events,
        "events_per_s": round(replayed.events_per_s, 1),
        "freshness_ms": {
            "p50": percentile(freshness.session_ms, 50),
            "p99": percentile(freshness.session_ms, 99),
            "events": len(freshness.session_ms),
            "target": {"p50": percentile(freshness.target_ms, 50), "p99": percentile(freshness.target_ms, 99)},
        },
        "rank_ms": rank_ms,
        "ndcg10": {"unicorn": pre_query["unicorn"]["ndcg10"], "popularity": pre_query["popularity"]["ndcg10"]},
        "evaluation": evaluation,
        "verify": verified,
        "train_s": round(report.data_s + report.fit_s, 1),
        **figures,
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in ("nowrank", "faust-streaming", "feast", "kafka-python", "redis", "torch", "onnxruntime")
            },
            "model": report.card.version,
        },
    }


def _get_data(settings: Settings) -> Path:
    from streams.sources.movielens_files import LICENCE, get_movielens

    _say("1  MovieLens-100k")
    folder = get_movielens(settings.state_dir, lambda line: print(f"   {line}", flush=True))
    print("   " + LICENCE.replace("\n", "\n   "))
    return folder


def _forget_artifact(settings: Settings) -> None:
    """An artifact of an earlier run must not answer in this one."""
    shutil.rmtree(settings.artifact_path, ignore_errors=True)


def _check_feast(settings: Settings, log: "Log") -> None:
    from features.feast_repo.apply import apply_feast
    from features.online_store import connect, read_states
    from features.registry import VIEWS
    from features.rows import ITEM

    began_s = monotonic_s()
    store = apply_feast(settings)
    item_id = log.labels[-1].item_id
    features = ["item:item_plays_14d", "item:item_clicks_1d"]
    answer = store.get_online_features(features=features, entity_rows=[{"item_id": item_id}]).to_dict()
    [state] = read_states(connect(settings.redis), settings.feast_project, [(ITEM, item_id)])
    ours = dict(zip((spec.name for spec in ITEM.views[0].features), ITEM.views[0].values(state), strict=True))
    for name in ("item_plays_14d", "item_clicks_1d"):
        if answer[name] != [ours[name]]:
            raise NowrankError(f"Feast reads {name} = {answer[name][0]} for item {item_id}; the row holds {ours[name]}")
    print(
        f"   {len(VIEWS)} views applied in {monotonic_s() - began_s:.0f} s; item {item_id}: "
        f"item_plays_14d = {answer['item_plays_14d'][0]:.3f} by both readers"
    )


def _await_model(scorer: "Scorer", version_: str) -> None:
    deadline_s = monotonic_s() + MODEL_TIMEOUT_S
    while (seen := scorer.health().model) != version_:
        if monotonic_s() > deadline_s:
            raise NowrankError(
                f"the scorer answers with model {seen!r} and did not load {version_!r} "
                f"within {MODEL_TIMEOUT_S:.0f} s; see its log"
            )
        time.sleep(0.1)


def _play_scene(settings: Settings, scorer: "Scorer", log: "Log") -> dict[str, Any]:
    from nowrank.demo_scene import ask, cast_scene, compare, engage

    scene = cast_scene(log)
    names = ", ".join(item.title for item in scene.engaged)
    _say(
        f"6  user {scene.user_id} looks, then clicks, plays and likes {len(scene.engaged)} titles of a kind "
        f"that they rarely play ({scene.kind}): {names}"
    )
    engaged = {item.item_id for item in scene.engaged}
    first, second = ask(scorer, scene), ask(scorer, scene)
    control = compare(first, second, set())
    fresh_ms = engage(settings, scene)
    changes = compare(second, ask(scorer, scene, explain=True), engaged)
    print(f"   the session was readable {fresh_ms:.0f} ms after the last event")
    for change in changes:
        asked = {"search": f"search {scene.query!r}", "more_like_this": f"more like {scene.source.title}"}
        shown = asked.get(change.task, "pre-query")
        print(
            f"\n   {shown}: {change.before.took_ms:.1f} ms before, {change.after.took_ms:.1f} ms after "
            f"(with its explanation); {len(change.moved)} moved"
        )
        print(f"   {'':>4} {'before':<40} {'after':<40} {'long':>6} {'short':>6}")
        for place, (old, new) in enumerate(zip(change.before.items, change.after.items, strict=False), 1):
            parts = new.parts
            why = f"{parts.long_term:>6.2f} {parts.short_term:>6.2f}" if parts else ""
            print(f"   {place:>4} {(old.title or old.item_id)[:39]:<40} {(new.title or new.item_id)[:39]:<40} {why}")
    return {
        "moved_items": sum(len(change.moved) for change in changes),
        "control_moved_items": sum(len(change.moved) for change in control),
        "scene_freshness_ms": fresh_ms,
    }


def _verify(settings: Settings) -> dict[str, Any]:
    from streams.audit.verify import verify_store

    began_s = monotonic_s()
    report = verify_store(settings)
    rows, took_s = sum(report.rows.values()), monotonic_s() - began_s
    print(f"   {rows:,} rows and {report.deltas:,} deltas recomputed from {report.records:,} records in {took_s:.0f} s")
    return {
        "rows": rows,
        "records": report.records,
        "differences": len(report.differences),
        "unverifiable": sum(report.unverifiable.values()),
        "exit_code": report.exit_code,
        "took_s": round(took_s, 1),
    }


def _time_rank(scorer: "Scorer", log: "Log", count: int) -> dict[str, float]:
    """The client's own time for RANK_REQUESTS requests, one after the other, in ms."""
    from nowrank.demo_replay import percentile

    item_ids = [item.item_id for item in log.items[:count]]
    users = [label.user_id for label in log.labels[-RANK_REQUESTS:]]
    took_ms = []
    for user_id in users:
        began_s = monotonic_s()
        answer = scorer.rank(user_id, "pre_query", items=item_ids)
        took_ms.append(1000 * (monotonic_s() - began_s))
        if answer.candidates != count or not answer.model:
            raise NowrankError(
                f"the scorer ranked {answer.candidates} of {count} candidates with model {answer.model!r}"
            )
    return {"p50": round(percentile(took_ms, 50), 3), "p99": round(percentile(took_ms, 99), 3)}


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)
