"""The routes besides the ranking: events, titles, health, metrics, documentation."""

import json
import time
import uuid
from typing import Any

import httpx
import pytest
from kafka import KafkaConsumer, TopicPartition

from infra.settings import Settings
from serving.contract import RankRequest
from serving.openapi import openapi_document
from streams.catalogue import convert_item
from streams.events import convert_engaged, decode_record
from streams.topics import CLICKS, PLAYS
from tests.serving.world import metric, wait_until


def event(kind: str = "click", **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "event_id": str(uuid.uuid4()),
        "user_id": "http-user",
        "item_id": "t1",
        "event_ts_ms": int(time.time() * 1000),
    } | fields


def records(settings: Settings, topic: str) -> list[bytes]:
    """Every record of a topic."""
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.split(","), group_id=None, auto_offset_reset="earliest")
    try:
        wait_until(lambda: consumer.partitions_for_topic(topic))
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        found: list[bytes] = []
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            found += [record.value for batch in consumer.poll(timeout_ms=200).values() for record in batch]
        return found
    finally:
        consumer.close()


def test_one_event_an_array_and_lines_reach_kafka_unchanged(client: httpx.Client, world_settings: Settings) -> None:
    one, two, three = event(), event("play", watched_ms=5, duration_ms=10), event("thumb", value="up")
    assert client.post("/events", json=one).json() == {"accepted": 1, "rejected": []}
    assert client.post("/events", json=[two, three]).json() == {"accepted": 2, "rejected": []}
    four, five = event(item_id="t2"), event(item_id="t3")
    lines = f"{json.dumps(four)}\n\n{json.dumps(five)}\n"
    assert client.post("/events", content=lines).json() == {"accepted": 2, "rejected": []}
    events = [
        value for value in records(world_settings, CLICKS) if value.startswith(b"{")
    ]  # other tests write there too
    clicked = {decode_record(CLICKS, value).event_id for value in events}  # type: ignore[union-attr]
    assert {one["event_id"], four["event_id"], five["event_id"]} <= clicked
    played = {decode_record(PLAYS, value).event_id for value in records(world_settings, PLAYS)}  # type: ignore[union-attr]
    assert two["event_id"] in played


BAD_EVENTS: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("unknown type", event("yawn"), "unknown_type", "type"),
    ("no type", {name: value for name, value in event().items() if name != "type"}, "missing_field", "type"),
    ("no user", {name: value for name, value in event().items() if name != "user_id"}, "missing_field", "user_id"),
    ("empty item", event(item_id=""), "invalid_field", "item_id"),
    ("item of 10 kB", event(item_id="x" * 10_240), "invalid_field", "item_id"),
    ("time is text", event(event_ts_ms="now"), "invalid_field", "event_ts_ms"),
    ("negative time", event(event_ts_ms=-1), "invalid_field", "event_ts_ms"),
    ("far future", event(event_ts_ms=int(time.time() * 1000) + 3_600_000), "future_timestamp", "event_ts_ms"),
    ("negative duration", event("play", watched_ms=-5, duration_ms=10), "invalid_field", "watched_ms"),
    ("fractional duration", event("play", watched_ms=0.5, duration_ms=10), "invalid_field", "watched_ms"),
    ("no duration", event("play", watched_ms=5), "missing_field", "duration_ms"),
    ("unknown thumb", event("thumb", value="sideways"), "invalid_field", "value"),
    ("unknown task", event(task="guess"), "invalid_field", "task"),
    ("bad country", event(country="Germany"), "invalid_field", "country"),
    ("oversized query", event(query="q" * 300), "invalid_field", "query"),
]


@pytest.mark.parametrize(
    ("bad", "reason", "field"), [case[1:] for case in BAD_EVENTS], ids=[case[0] for case in BAD_EVENTS]
)
def test_bad_event_is_named_by_place_reason_and_field_and_the_others_are_taken(
    client: httpx.Client, bad: dict[str, Any], reason: str, field: str | None
) -> None:
    answer = client.post("/events", json=[event(), bad, event()])
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == 2
    (rejected,) = answer.json()["rejected"]
    assert (rejected["index"], rejected["reason"], rejected.get("field")) == (1, reason, field)
    assert rejected["message"]


def test_nothing_accepted_is_a_problem_that_says_why(client: httpx.Client) -> None:
    answer = client.post("/events", json=event("yawn"))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["accepted"] == 0
    assert answer.json()["rejected"][0]["reason"] == "unknown_type"


def test_broken_line_spoils_only_itself(client: httpx.Client) -> None:
    body = "\n".join([json.dumps(event()), '{"type": "click", ', "7", json.dumps(event())])
    answer = client.post("/events", content=body).json()
    assert answer["accepted"] == 2
    assert [(rejected["index"], rejected["reason"]) for rejected in answer["rejected"]] == [
        (1, "malformed_json"),
        (2, "invalid_field"),
    ]


@pytest.mark.parametrize("broken", ['{"type": "click", ', "oops", ""], ids=["cut off", "no JSON", "none"])
def test_broken_first_line_spoils_only_itself(client: httpx.Client, broken: str) -> None:
    body = "\n".join([broken, json.dumps(event()), json.dumps(event())])
    answer = client.post("/events", content=body).json()
    assert answer["accepted"] == 2
    assert [rejected["reason"] for rejected in answer["rejected"]] == ["malformed_json"] * bool(broken)


def test_lines_that_are_called_so_are_each_named_when_all_are_broken(client: httpx.Client) -> None:
    answer = client.post("/events", content="oops\noops\n", headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 422
    assert [(rejected["index"], rejected["reason"]) for rejected in answer.json()["rejected"]] == [
        (0, "malformed_json"),
        (1, "malformed_json"),
    ]
    assert client.post("/events", content="oops\noops\n").status_code == 400


def test_an_array_that_was_cut_off_is_not_taken_for_lines(client: httpx.Client) -> None:
    body = json.dumps([event(), event()], indent=0).replace("{\n", "{").replace(',\n"', ',"').replace("\n}", "}")
    assert client.post("/events", content=body).json()["accepted"] == 2
    answer = client.post("/events", content=body.rstrip("]"))
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:nowrank:problem:malformed-json")


def test_title_that_is_posted_can_be_searched_for(client: httpx.Client) -> None:
    name = f"Xylophone Dreams {uuid.uuid4().hex[:6]}"
    assert client.post("/items", json={"item_id": name[-6:], "title": name}).json() == {"accepted": 1, "rejected": []}

    def found() -> bool:
        # All candidates: where the title stands among them is up to a network that nobody trained.
        asked = {"user_id": "ann", "task": "search", "query": "xylo", "limit": 100, "log": False}
        answer = client.post("/rank", json=asked).json()
        return name in [item.get("title") for item in answer["items"]]

    wait_until(found)
    assert client.post("/items", json={"item_id": name[-6:], "title": name, "deleted": True}).status_code == 200
    wait_until(lambda: not found())


def test_bad_title_names_its_field(client: httpx.Client) -> None:
    answer = client.post(
        "/items", json=[{"item_id": "ok", "title": "A title", "deleted": True}, {"item_id": "x", "title": ""}]
    ).json()
    assert answer["accepted"] == 1
    assert (answer["rejected"][0]["index"], answer["rejected"][0]["field"]) == (1, "title")


def test_liveness_says_nothing_of_the_model_or_the_store(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}


def test_health_names_the_model_and_what_is_known(client: httpx.Client) -> None:
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["store"] == "ok"
    assert ready.json()["items"] >= 60
    assert ready.json()["model"]


def test_every_request_is_counted_by_route_and_code(client: httpx.Client) -> None:
    before = metric(client, 'nowrank_scorer_requests_total{code="404",route="unknown"}')
    for name in ("/a", "/b", "/rank/x"):
        client.get(name)
    assert metric(client, 'nowrank_scorer_requests_total{code="404",route="unknown"}') == before + 3
    ranked = metric(client, 'nowrank_scorer_rank_seconds_count{task="pre_query"}')
    client.post("/rank", json={"user_id": "ann", "task": "pre_query", "items": ["t1", "t2"]})
    assert metric(client, 'nowrank_scorer_rank_seconds_count{task="pre_query"}') == ranked + 1
    for phase in ("store", "candidates", "features", "model", "answer"):
        assert metric(client, f'nowrank_scorer_phase_seconds_count{{phase="{phase}"}}') > ranked


def test_openapi_document_hangs_together(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    references = {part.partition('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(schemas)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["responses"] and operation["summary"] for operation in operations)
    assert set(schemas["RankRequest"]["properties"]) == set(RankRequest.__struct_fields__)
    assert schemas["RankRequest"]["required"] == ["user_id", "task"]
    assert schemas["RankRequest"]["additionalProperties"] is False


def test_every_documented_route_is_there_and_no_other(client: httpx.Client) -> None:
    for path, methods in openapi_document()["paths"].items():
        for method in ("get", "post", "put", "delete"):
            answer = client.request(method, path, content=b"{}")
            assert (answer.status_code == 405) == (method not in methods), (method, path)


def test_examples_of_the_document_are_accepted() -> None:
    paths = openapi_document()["paths"]
    examples = {
        path: paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        for path in ("/rank", "/events", "/items")
    }
    RankRequest(**examples["/rank"])
    convert_engaged(examples["/events"])
    convert_item(examples["/items"])


def test_documentation_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
