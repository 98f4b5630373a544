"""The command `settings`.

Enters: the environment. Leaves: every setting with the value in force, or the page `docs/settings.md`. Called by the
command line.
"""

import argparse
from dataclasses import fields

from infra.settings import Settings, load_settings, settings_table, shown_value, variable_of
from infra.text_table import aligned

_PAGE_HEAD = """\
# Settings

Every process reads the same variables. A variable that is set wins over the running embedded stack's `stack.json` (for
addresses), which wins over the default. `nowrank settings` prints the values in force. This page is generated: `make
docs`.

"""


def settings_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nowrank settings`."""
    parser.epilog = "examples:\n  nowrank settings\n  NOWRANK_WORKERS=2 nowrank settings\n  nowrank settings --markdown"
    parser.add_argument("--markdown", action="store_true", help="print the page docs/settings.md instead")


def settings(args: argparse.Namespace) -> int:
    """Print every setting: variable, value in force, default, meaning."""
    print(settings_page() if args.markdown else "\n".join(_lines(load_settings())), end="" if args.markdown else "\n")
    return 0


def settings_page() -> str:
    """The content of `docs/settings.md`."""
    return _PAGE_HEAD + settings_table()


def _lines(values: Settings) -> list[str]:
    rows = [("VARIABLE", "VALUE", "DEFAULT", "MEANING")]
    rows += [
        (
            variable_of(spec),
            shown_value(values, spec) or "(empty)",
            str(spec.default) or "(empty)",
            spec.metadata["doc"],
        )
        for spec in fields(Settings)
    ]
    return aligned(rows)
