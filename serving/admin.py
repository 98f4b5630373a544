"""The operator's routes: change the log level, look for a new model now.

Enters: `POST /admin/...` with the operator's token. Leaves: what is in force afterwards. Called by `api.py`. Without
an operator's token in the settings these routes answer 404.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serving.access import Tokens, bearer_token, unauthorized
from serving.bodies import BodyReader
from serving.contract import Health, decode_body
from serving.problems import http_problem, problem_response

MAX_ADMIN_BYTES = 1024
_encode = msgspec.json.encode

log = logging.getLogger(__name__)


class LogLevel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the process logs."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]


_LOG_LEVEL = msgspec.json.Decoder(LogLevel)


class Admin:
    """The routes; `reload` looks for a new model and says what answers from then on."""

    def __init__(self, tokens: Tokens, bodies: BodyReader, reload: Callable[[], Awaitable[Health]]) -> None:
        self._tokens = tokens
        self._bodies = bodies
        self._reload = reload

    async def log_level(self, request: Request) -> Response:
        """POST /admin/log-level"""
        if (refusal := self._refusal(request)) is not None:
            return refusal
        wanted = decode_body(_LOG_LEVEL, await self._bodies.read(request, MAX_ADMIN_BYTES))
        logging.getLogger().setLevel(wanted.level)
        log.warning("the log level is %s from now on", wanted.level)
        return _json(wanted)

    async def reload(self, request: Request) -> Response:
        """POST /admin/reload"""
        if (refusal := self._refusal(request)) is not None:
            return refusal
        return _json(await self._reload())

    def _refusal(self, request: Request) -> Response | None:
        if not self._tokens:
            return problem_response(
                http_problem(404, "the operator's routes are off; set NOWRANK_ADMIN_TOKEN to have them")
            )
        if bearer_token(request.scope) is None:
            return unauthorized()
        if self._tokens.caller(request.scope) is None:
            return problem_response(http_problem(403, "this token is not the operator's"))
        return None


def _json(value: msgspec.Struct) -> Response:
    return Response(_encode(value), media_type="application/json")
