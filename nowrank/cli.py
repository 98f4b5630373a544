"""The command line: one line per command; a room's code is loaded only when its command is called.

Enters: arguments. Leaves: an exit code: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted. Called as
`nowrank`.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from infra.errors import NowrankError

# command, of one word or two -> (module that holds `<command>_arguments(parser)` and `<command>(args) -> int`, one-line
# help). The longer name wins: a log in a folder called history is `nowrank train ./history`.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("infra.embedded.commands", "start the embedded stack: broker, store, workers, scorer, canary"),
    "down": ("infra.embedded.commands", "stop the embedded stack"),
    "status": ("infra.embedded.commands", "say what is running, and where"),
    "data": ("streams.commands", "get a public data set"),
    "import": ("streams.commands", "publish a file of events, or a catalogue, to Kafka"),
    "simulate": ("nowrank.simulate", "make a synthetic world with a known truth, as files or live on the broker"),
    "topics": ("streams.commands", "create or list the topics, print the schema of their events"),
    "worker": ("streams.worker_commands", "run a stream worker: both stages"),
    "canary": ("streams.worker_commands", "publish probe events and measure how soon they are readable"),
    "dead-letters": ("streams.dead_letter_commands", "list, show, repair or resend records that could not be folded"),
    "verify": ("streams.log_commands", "recompute the log and compare every row of the store with it"),
    "rebuild": ("streams.log_commands", "fill the store anew from the log, then switch to it atomically"),
    "features": ("features.commands", "show the feature registry, read a row, apply it to Feast"),
    "dataset": ("model.commands", "replay a log into training examples: Parquet with a manifest"),
    "train": ("model.commands", "train UniCoRn on a log of events"),
    "train history": ("model.history.commands", "train a history encoder: a user's whole past as one vector"),
    "promote": ("model.served_commands", "put a new artifact in the current one's place, if it is not worse"),
    "evaluate": ("model.commands", "evaluate an artifact on the last days of a log"),
    "ablate": ("model.ablation.commands", "say what each part of the model is worth: many networks, one data set"),
    "evaluate history": ("model.history.commands", "compare trained history encoders, user by user"),
    "scorer": ("serving.commands", "run the scorer"),
    "rank": ("serving.commands", "ask the scorer for a ranking"),
    "reproduce": ("serving.reproduce_command", "score a logged answer again and compare, bit for bit"),
    "interleaving": ("serving.interleaving_command", "say which of two interleaved variants members prefer"),
    "skew": ("serving.skew_command", "compare the features that were served with a replay of the log"),
    "settings": ("infra.commands", "show every setting, its value and its meaning"),
    "metrics": ("infra.prometheus.commands", "show every metric; write a Prometheus configuration"),
    "demo": ("nowrank.demo", "play the whole main job on real data"),
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; only `command` gets its own arguments, so that only its room is imported."""
    parser = argparse.ArgumentParser(
        prog="nowrank",
        description="Nowrank ranks for the moment: engagement events in, fresh features kept, rankings out.",
        epilog="`nowrank COMMAND --help` shows a command's arguments and examples.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, help_text) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            _function(module_name, f"{_identifier(name)}_arguments")(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if " ".join(words[:2]) in COMMANDS:
        words[:2] = [" ".join(words[:2])]
    command = words[0] if words and words[0] in COMMANDS else None
    try:
        args = build_parser(command).parse_args(words)
        return int(_function(COMMANDS[args.command][0], _identifier(args.command))(args))
    except NowrankError as error:
        print(f"nowrank: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in {"infra", "features", "streams", "model", "serving", "nowrank"}:
            raise
        print(
            f"nowrank: this command needs {error.name!r}; install it with: pip install 'nowrank[all]'", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _identifier(command: str) -> str:
    return "import_" if command == "import" else command.replace("-", "_").replace(" ", "_")


def _function(module_name: str, name: str):  # type: ignore[no-untyped-def]
    return getattr(importlib.import_module(module_name), name)


if __name__ == "__main__":
    sys.exit(main())
