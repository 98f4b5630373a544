"""Query normalisation: the one function that the streams, training and serving share.

Enters: what somebody typed. Leaves: the same query in its one normal form. Called wherever a query becomes a key or a
feature.
"""

import unicodedata

MAX_QUERY_CHARS = 256


def normalise_query(text: str) -> str:
    """NFKC, case folded, runs of white space as one space; control characters count as white space; '' when nothing is
    left.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    spaced = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in folded)
    return " ".join(spaced.split())
