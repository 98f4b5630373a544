"""The Python client: ask for rankings and send events, with one pool of connections and a deadline.

Enters: the fields of a `RankRequest`, wire events. Leaves: `RankAnswer`, `Taken`; or `InvalidRequest`,
`ScorerUnavailable`. Called by other teams' services (`from nowrank import Scorer`), the demo and `nowrank rank`.
"""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from infra.errors import InvalidRequest, ScorerUnavailable
from infra.settings import load_settings
from serving.contract import DEFAULT_LIMIT, Health, Problem, RankAnswer, RankRequest, Taken
from streams.events import Event, TaskName, encode_event

NDJSON_TYPE = "application/x-ndjson"
T = TypeVar("T")


class Scorer:
    """A client of one scorer, usable as a context manager and from several threads.

    Close it when it is no longer needed.
    """

    def __init__(self, url: str | None = None, *, timeout_s: float = 2.0, connections: int = 20) -> None:
        """`url` None means the settings' `scorer_url`, or the running embedded stack's.

        Raises `ScorerUnavailable` when there is neither.
        """
        self.url = (load_settings().scorer_url if url is None else url).rstrip("/")
        if not self.url:
            raise ScorerUnavailable(
                "no scorer is known: start one with `nowrank up`, or set NOWRANK_SCORER_URL=http://host:port"
            )
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # trust_env: a proxy of the environment is for the internet, not for a scorer next door.
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, limits=limits, trust_env=False)

    def rank(
        self,
        user_id: str,
        task: TaskName = "pre_query",
        *,
        items: Sequence[str] | None = None,
        limit: int = DEFAULT_LIMIT,
        **more: Any,
    ) -> RankAnswer:
        """Titles for a member, the best first.

        `more` are the other fields of `RankRequest`: `query`, `source_item_id`, `country`, `session_id`, `explain`,
        `include_seen`, `log`, `id`. Raises `InvalidRequest` for what the scorer refuses, `ScorerUnavailable` when it
        does not answer.
        """
        try:
            request = RankRequest(
                user_id=user_id, task=task, items=None if items is None else list(items), limit=limit, **more
            )
        except TypeError as error:
            raise InvalidRequest(
                "unknown_field", f"{error}; known are {', '.join(RankRequest.__struct_fields__)}"
            ) from error
        return self._post("/rank", msgspec.json.encode(request), RankAnswer)

    def send_events(self, events: Iterable[Event]) -> Taken:
        """Publish plays, clicks and thumbs through the scorer.

        Returns what was accepted and what was not, once Kafka has it.
        """
        body = b"\n".join(encode_event(event) for event in events)
        return (
            self._post("/events", body, Taken, {"Content-Type": NDJSON_TYPE})
            if body
            else Taken(accepted=0, rejected=[])
        )

    def health(self) -> Health:
        """What the scorer can answer with, warm or not."""
        return msgspec.json.decode(self._send("GET", "/health/ready").content, type=Health)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, path: str, body: bytes, kind: type[T], headers: dict[str, str] | None = None) -> T:
        response = self._send(
            "POST", path, content=body, headers={"Content-Type": "application/json", **(headers or {})}
        )
        if response.status_code == httpx.codes.OK:
            return msgspec.json.decode(response.content, type=kind)
        problem = _problem(response)
        if kind is Taken and problem.rejected is not None and response.is_client_error:
            return kind(accepted=0, rejected=problem.rejected)  # type: ignore[call-arg]
        if response.is_client_error:
            raise InvalidRequest(problem.type.rpartition(":")[2].replace("-", "_"), problem.detail, problem.field)
        raise ScorerUnavailable(f"the scorer at {self.url} answered {response.status_code}: {problem.detail}")

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except httpx.TimeoutException as error:
            raise ScorerUnavailable(f"the scorer at {self.url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise ScorerUnavailable(
                f"no scorer answers at {self.url} ({error}); start one with `nowrank up`"
            ) from error


def _problem(response: httpx.Response) -> Problem:
    try:
        return msgspec.json.decode(response.content, type=Problem)
    except msgspec.MsgspecError:
        return Problem(
            type="",
            title="",
            status=response.status_code,
            detail=f"HTTP {response.status_code}, not a problem document",
        )
