"""Rewrite the golden files from the code: `python -m tests.golden`. Their diff is the review of a change to a contract.

Enters: the code. Leaves: the JSON files in this folder. Called by people, never by a test.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.registry import registry_document

GOLDENS: dict[str, Callable[[], Any]] = {"registry.json": registry_document}


def main() -> int:
    """Write every golden file and say which ones changed."""
    for name, document in GOLDENS.items():
        path = Path(__file__).with_name(name)
        text = json.dumps(document(), indent=2) + "\n"
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        print(f"{path.name}: {'rewritten' if changed else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
