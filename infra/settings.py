"""Settings: the only reader of the environment.

Enters: `NOWRANK_*` variables, then the running embedded stack's `stack.json`, then the defaults below (in that order of
strength). Leaves: one frozen `Settings`. Called once by each process, which passes the values on.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from infra.addresses import MAX_PORT, hide_password, read_brokers
from infra.errors import SettingsError, StackError

STACK_FILE = "stack.json"
NO_BROKER = "no broker is set: start one with `nowrank up`, or set NOWRANK_KAFKA=host:port"
NO_STORE = "no store is set: start one with `nowrank up`, or set NOWRANK_REDIS=host:port"
STACK_LOCK = "stack.lock"
ADDRESSES = ("kafka", "redis", "scorer_url")
STAGES = ("session", "target")
LABELS_STAGE = "labels"


def _setting(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
    read: Callable[[str], str] | None = None,
    hide: Callable[[str], str] | None = None,
) -> Any:
    """A field; the environment's value must be in the range or, in capital letters, one of the choices. `read` makes
    the value of a text, or raises `ValueError` that says what it must be; `hide` makes of a value what may be shown.
    """
    metadata = {"doc": doc, "minimum": minimum, "maximum": maximum, "choices": choices, "read": read, "hide": hide}
    return field(default=default, repr=hide is None, metadata=metadata)


def _hide_all(secret: str) -> str:
    return "***" if secret else ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field `name` is read from `NOWRANK_NAME`; `docs/settings.md` is generated from this class."""

    state_dir: Path = _setting(Path(".nowrank"), "folder of the embedded stack, downloaded data and trained artifacts")
    kafka: str = _setting(
        "", "broker addresses, `host:port[,host:port]`; empty: the embedded broker", read=read_brokers
    )
    redis: str = _setting(
        "", "Redis in Feast's form, `host:port[,db=0][,password=...]`; empty: the embedded server", hide=hide_password
    )
    feast_project: str = _setting("nowrank", "Feast project: the suffix of every row's key; one project in a database")
    partitions: int = _setting(
        4, "partitions of each event topic and of the delta topic, set when topics are created", minimum=1
    )
    replication: int = _setting(1, "replication factor of the topics, set when topics are created", minimum=1)
    workers: int = _setting(1, "stream workers of each stage that the embedded stack starts", minimum=1)
    worker_id: str = _setting("worker-0", "name of one worker process in logs and metrics")
    stages: str = _setting(
        "session,target",
        "what a worker does: `session` (events to user rows and deltas), `target` (deltas to target rows), or both; or "
        "`labels` (rankings and events to the labels of what was shown)",
    )
    label_workers: int = _setting(
        0, "stream workers of the stage `labels` that the embedded stack starts; 0: none", minimum=0
    )
    label_window_s: int = _setting(
        1800, "how long after a list a click, play or thumb that names no list may still belong to it", minimum=0
    )
    batch_max_events: int = _setting(1000, "most records that a stage folds at once", minimum=1)
    fetch_wait_ms: int = _setting(
        20,
        "longest wait of a fetch; the embedded broker answers only then, Apache Kafka at once (500 saves CPU there)",
        minimum=0,
    )
    row_cache_bytes: int = _setting(
        256 * 1024 * 1024,
        "memory for the rows that a worker keeps at hand, estimated; its stages share it evenly",
        minimum=0,
    )
    stall_timeout_s: float = _setting(
        30.0,
        "a worker that makes no progress for so long, though there is work, ends; its supervisor starts it anew",
        minimum=1,
    )
    broker_session_timeout_s: float = _setting(6.0, "a worker silent for so long loses its partitions", minimum=2)
    future_limit_s: int = _setting(
        300, "events further in the future than this are dead-lettered, nearer ones are clamped", minimum=0
    )
    metrics_host: str = _setting("127.0.0.1", "address on which a worker, or the canary, exposes its metrics")
    metrics_port: int = _setting(0, "port of a worker's metrics; 0: any free one", minimum=0, maximum=MAX_PORT)
    canary_id: str = _setting("canary-0", "name of one canary, part of its probes' ids: unique among those that run")
    canary_port: int = _setting(
        0, "port of the canary's metrics, on `NOWRANK_METRICS_HOST`; 0: any free one", minimum=0, maximum=MAX_PORT
    )
    canary_interval_s: float = _setting(1.0, "time from one probe event to the next", minimum=0.01)
    canary_timeout_s: float = _setting(10.0, "a probe event that is not readable after so long is lost", minimum=0.1)
    scorer_host: str = _setting("127.0.0.1", "address on which the scorer listens")
    scorer_port: int = _setting(
        0, "port of the scorer; 0: any free one in the embedded stack, 8080 elsewhere", minimum=0, maximum=MAX_PORT
    )
    scorer_processes: int = _setting(
        1,
        "processes of one scorer that share its port, each with one scoring thread and a copy of everything; "
        "limits of requests and connections hold for each of them",
        minimum=1,
        maximum=64,
    )
    scorer_url: str = _setting("", "where clients find the scorer; empty: the embedded stack's")
    rank_deadline_ms: int = _setting(50, "longest wait for the online store in one request", minimum=1)
    diversity: str = _setting(
        "",
        "how much unlike titles are preferred, 0 to 1 by task, such as `pre_query=0.3,more_like_this=0.2`; empty: off",
    )
    stability_places: int = _setting(
        0, "how many places a title that was shown may move from one answer of a session to the next; 0: any", minimum=0
    )
    stability_margin: float = _setting(
        1.0, "the score gap (log-odds) from which on a title may move further than that", minimum=0
    )
    exploration: float = _setting(
        0.0,
        "share of answers, those in rows excepted, whose last place shows a random candidate, its propensity logged; "
        "0: none",
        minimum=0,
        maximum=1,
    )
    variants: str = _setting(
        "", "model variants in an experiment and their shares of the users, such as `challenger=0.1`; empty: none"
    )
    interleave: str = _setting(
        "",
        "two model variants whose answers are interleaved for a share of the users, such as "
        "`default+challenger=0.1`; empty: none",
    )
    experiment_salt: str = _setting("", "what users are assigned by, beside their ids; another salt draws them anew")
    rank_max_unfinished: int = _setting(
        128, "most ranking requests that are unfinished at once; what comes on top is refused with 503", minimum=1
    )
    rank_queue_ms: int = _setting(
        200, "longest expected wait of a ranking request for those before it; when it would be longer, 503", minimum=0
    )
    answer_cache_s: float = _setting(
        0.0,
        "how long the scores of a question serve all members of a cluster, where the model knows no more; 0: off",
        minimum=0,
    )
    store_failures: int = _setting(
        5,
        "after so many failed reads of the online store in a row, within 10 s, requests do not wait for it any more",
        minimum=1,
    )
    store_pause_ms: int = _setting(
        500, "time from one look at a store that fails to the next, by one request", minimum=0
    )
    max_connections: int = _setting(
        512,
        "most HTTP connections of one scorer; when one more comes, the oldest that waits for its client is cut",
        minimum=1,
    )
    transfer_timeout_s: float = _setting(
        10.0, "longest time for a request's headers to come, for its body, and for its answer to be taken", minimum=0.1
    )
    api_token: str = _setting(
        "",
        "tokens of the scorer's callers, separated by commas; set, `/rank`, `/events` and `/items` need "
        "`Authorization: Bearer TOKEN`; clients send the first",
        hide=_hide_all,
    )
    admin_token: str = _setting(
        "", "the operator's token for the scorer's `/admin/...`; empty: there are no such routes", hide=_hide_all
    )
    rate_limit: float = _setting(
        0.0,
        "requests a second of one caller (a token, else an address) to `/rank`, `/events`, `/items`; 0: no limit",
        minimum=0,
    )
    artifact_dir: str = _setting("", "folder of the model artifact; empty: `<state_dir>/artifact`")
    log_level: str = _setting("INFO", "the least level that is logged", choices=("DEBUG", "INFO", "WARNING", "ERROR"))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages that a worker runs; raises `SettingsError` for anything else."""
        asked = {name.strip() for name in self.stages.split(",")}
        if asked == {LABELS_STAGE}:
            return (LABELS_STAGE,)
        if not asked <= set(STAGES):
            raise SettingsError(
                f"NOWRANK_STAGES is {self.stages!r}; it must be {STAGES[0]}, {STAGES[1]} or both, or {LABELS_STAGE}"
            )
        return tuple(stage for stage in STAGES if stage in asked)

    @property
    def label_window_ms(self) -> int:
        """`label_window_s` in the unit of events' times."""
        return self.label_window_s * 1000

    @property
    def future_limit_ms(self) -> int:
        """`future_limit_s` in the unit of events' times."""
        return self.future_limit_s * 1000

    @property
    def artifact_path(self) -> Path:
        """The folder that holds the current model artifact."""
        return Path(self.artifact_dir) if self.artifact_dir else self.state_dir / "artifact"

    @property
    def stack_file(self) -> Path:
        """Where the embedded stack says what is running."""
        return self.state_dir / STACK_FILE


def load_settings(environment: Mapping[str, str] | None = None, *, running_stack: bool = True) -> Settings:
    """The settings of this process; raises `SettingsError` for a value that cannot be used, and
    `StackError` for a state folder that cannot.

    Without `running_stack` the addresses are those that the user gave: what a command that starts a stack must know.
    """
    environment = os.environ if environment is None else environment
    from_environment = {
        spec.name: _parse(spec, environment[variable])
        for spec in fields(Settings)
        if (variable := variable_of(spec)) in environment and environment[variable] != ""
    }
    base = replace(Settings(), **from_environment)
    running = read_stack_file(base.stack_file) if running_stack and stack_lives(base.state_dir) else {}
    addresses = {name: running[name] for name in ADDRESSES if running.get(name) and isinstance(running[name], str)}
    return replace(base, **{**addresses, **from_environment})


def read_stack_file(path: Path) -> dict[str, Any]:
    """What an embedded stack, alive or not, wrote about itself; empty where that is nothing or is no JSON object.

    Raises `StackError` when the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    except OSError as error:
        raise unusable(path, error) from error
    return content if isinstance(content, dict) else {}


def stack_lives(state_dir: Path) -> bool:
    """True while a supervisor holds the folder's lock; the kernel frees it when that process ends, however it ends.

    Raises `StackError` when the lock cannot be looked at.
    """
    try:
        with (state_dir / STACK_LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise unusable(state_dir / STACK_LOCK, error) from error
    return False


def unusable(path: Path, error: OSError) -> StackError:
    """What to raise when a file of the state folder, or the folder, cannot be used."""
    return StackError(
        f"{path} cannot be used: {error.strerror}; set NOWRANK_STATE_DIR to a folder that this user can write to"
    )


def _parse(spec: "Field[Any]", text: str) -> Any:
    """The value in a variable's text; raises `SettingsError` for one of another type or out of its range."""
    variable = variable_of(spec)
    kind: Any = Path if isinstance(spec.default, Path) else type(spec.default)
    read = spec.metadata["read"]
    if read is not None:
        try:
            return read(text)
        except ValueError as error:
            raise SettingsError(f"{variable} is {text!r}; it must be {error}") from error
    try:
        value = kind(text.upper() if spec.metadata["choices"] else text)
    except ValueError as error:
        raise SettingsError(f"{variable} is {text!r}; it must be of type {kind.__name__}") from error
    if not _is_allowed(spec, value):
        raise SettingsError(f"{variable} is {text!r}; it must be {allowed_values(spec)}")
    return value


def _is_allowed(spec: "Field[Any]", value: Any) -> bool:
    minimum, maximum, choices = (spec.metadata[name] for name in ("minimum", "maximum", "choices"))
    if choices:
        return value in choices
    return minimum is None or minimum <= value <= (sys.float_info.max if maximum is None else maximum)


def allowed_values(spec: "Field[Any]") -> str:
    """What a setting can be, in words; empty when its type says everything."""
    minimum, maximum, choices = (spec.metadata[name] for name in ("minimum", "maximum", "choices"))
    if choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    if minimum is None:
        return ""
    return f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"


def variable_of(spec: "Field[Any]") -> str:
    """The environment variable of a setting."""
    return f"NOWRANK_{spec.name.upper()}"


def shown_value(settings: Settings, spec: "Field[Any]") -> str:
    """A setting's value as it may stand in a log or on a terminal: without secrets."""
    text, hide = str(getattr(settings, spec.name)), spec.metadata["hide"]
    return text if hide is None else hide(text)


def settings_table() -> str:
    """The Markdown table of `docs/settings.md`."""
    lines = ["| variable | default | must be | meaning |", "| --- | --- | --- | --- |"]
    for spec in fields(Settings):
        default = str(spec.default) or "(empty)"
        lines.append(f"| `{variable_of(spec)}` | `{default}` | {allowed_values(spec)} | {spec.metadata['doc']} |")
    return "\n".join(lines) + "\n"


def child_environment(settings: Settings) -> dict[str, str]:
    """This process's environment with every setting spelled out, for a child process."""
    spelled = {variable_of(spec): str(getattr(settings, spec.name)) for spec in fields(Settings)}
    return {**os.environ, **spelled}
