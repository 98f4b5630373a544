"""What logs and error texts say instead of a user's id.

Enters: ids, exceptions. Leaves: short digests, and texts in which these stand for the ids. Called by the scorer and the
workers.

A digest lets two lines about the same user be told to belong together. It is no secret: who has a list of all ids can
find the one behind it.
"""

import hashlib
import re
import traceback
from collections.abc import Collection

_QUOTED_VALUE = re.compile(r"^Invalid (enum )?value (.+(?= - at `\$)|.+)", re.DOTALL)


def hash_id(user_id: str) -> str:
    """Eight bytes of BLAKE2b, as `#` and sixteen digits."""
    return "#" + hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def hide_ids(text: str, user_ids: Collection[str]) -> str:
    """The text with the digest of each id for the id, as it is or as Python or JSON would write it."""
    for user_id in user_ids:
        for form in {user_id, repr(user_id)[1:-1], ascii(user_id)[1:-1]} - {""}:
            text = text.replace(form, hash_id(user_id))
    return text


def hide_value(message: str) -> str:
    """A validation's message without the value that was seen, which may be anything that a producer mixed up."""
    return _QUOTED_VALUE.sub(lambda found: f"Invalid {found[1] or ''}value", message)


def describe_failure(error: BaseException, user_ids: Collection[str] | None) -> str:
    """Where an exception and its causes were raised, and what they say without the ids; None: nothing of what they say.

    Source lines hold no values, so they stay as they are.
    """
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        said = "(its text may hold what was sent)" if user_ids is None else hide_ids(str(current), user_ids)
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{frames}{type(current).__name__}: {said}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\nwhich led to:\n".join(reversed(parts))
