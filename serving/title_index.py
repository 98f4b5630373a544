"""Titles by what was typed so far, and by the people in them.

Enters: normalised titles and names by slot. Leaves: the slots whose title begins with the query, has words that do, or
is spelled alike, and those with such a person. Filled by `library.py` when titles change, asked by `candidates.py`.

Beginnings are looked up in an array of each title's first characters: all titles that begin with one letter are too
many to ask an index for, and only the strongest are wanted. Words are Tantivy's, an index in memory with automata for
beginnings of words and for one typing error in each (Damerau-Levenshtein). `python -m benchmarks.candidates` measures.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tantivy import Document, Index, IndexWriter, Occur, Query, SchemaBuilder, Searcher, TextAnalyzerBuilder, Tokenizer

TYPO_MIN_CHARS = 3
# With so many titles that hold what was typed, a look for a typing error finds nothing better.
ENOUGH = 20
# Of more titles than this times the wanted ones that hold the words, the strongest of those indexed first are taken.
HITS_PER_WANTED = 4
HEAD_CHARS = 8
# So short a beginning of a word is a term of its own: too many words begin with it to go through them.
EDGE_CHARS = 3
MAX_JOINED = 3
WRITER_BYTES = 64_000_000
_WORDS = r"\w+"

Strength = NDArray[np.float32]


class Matches(NamedTuple):
    """Slots, the best first: the titles that hold what was typed, and those that are only spelled alike."""

    exact: list[int]
    alike: list[int]


class TitleIndex:
    """An index of titles and people; one thread may `put` while another one asks."""

    def __init__(self, titles: Sequence[str] = (), people: Sequence[str] = ()) -> None:
        """As `put`."""
        builder = SchemaBuilder().add_integer_field("slot", indexed=True, fast=True)
        for field in ("title", "people"):
            builder = builder.add_text_field(field, tokenizer_name="words", index_option="basic")
            builder = builder.add_text_field(f"{field}_edges", tokenizer_name="words", index_option="basic")
        self._schema = builder.build()
        self._analyzer = TextAnalyzerBuilder(Tokenizer.regex(_WORDS)).build()
        self._index = Index(self._schema)
        self._index.register_tokenizer("words", self._analyzer)
        self._people: list[str] = []
        self._held = _Held([], np.zeros((HEAD_CHARS, 0), np.uint32), self._index.searcher(), False)
        self.put(titles, people)

    def put(self, titles: Sequence[str], people: Sequence[str] = ()) -> None:
        """Hold exactly these, by slot; an empty one is none, and there are never fewer than before.

        Costs what has changed, and one look at every title.
        """
        names = [*people[: len(titles)], *[""] * (len(titles) - len(people))]
        kept = len(self._people)
        changed = [
            slot
            for slot, (title, name) in enumerate(zip(titles, names, strict=True))
            if slot >= kept or title != self._held.titles[slot] or name != self._people[slot]
        ]
        if changed:
            writer = self._index.writer(WRITER_BYTES, num_threads=1)
            self._write(writer, changed, kept, titles, names)
            writer.commit()
            writer.wait_merging_threads()
            self._index.reload()
        self._people = names
        self._held = _Held(list(titles), self._heads(titles, changed), self._index.searcher(), any(names))

    def find(self, query: str, strength_V: Strength, limit: int) -> Matches:
        """At most `limit` titles: the one that is the query, those that begin with it, those that hold the beginnings
        of all its words; where these are fewer than ENOUGH, alike ones; where there are none, those with all its words
        but one.

        By `strength_V` within each. About 0.2 ms with 10,000 titles.
        """
        held = self._held
        begins, equal = held.beginning_with(query)
        exact = [
            *strongest(begins[equal], strength_V, limit),
            *strongest(begins[~equal], strength_V, limit - int(equal.sum())),
        ]
        words = self._words(query)
        if words and len(exact) < limit:
            exact += self._search(held, self._with_words("title", words), strength_V, limit, exact)
        if not words or len(exact) >= min(limit, ENOUGH) or len(query) < TYPO_MIN_CHARS:
            return Matches(exact, [])
        alike = self._search(held, self._with_words("title", words, typos=1), strength_V, limit, exact)
        if not exact and not alike and len(words) > 1:
            most = self._with_words("title", words, typos=1, least=len(words) - 1)
            alike = self._search(held, most, strength_V, limit)
        return Matches(exact, alike)

    def find_people(self, query: str, strength_V: Strength, limit: int, typos: bool = True) -> Matches:
        """At most `limit` titles with a person whose name holds the beginnings of all words of the query; where there
        are none, and if asked, alike ones. By `strength_V` within each.
        """
        held, words = self._held, self._words(query)
        if not held.has_people or not words:
            return Matches([], [])
        exact = self._search(held, self._with_words("people", words), strength_V, limit)
        if exact or not typos or len(query) < TYPO_MIN_CHARS:
            return Matches(exact, [])
        return Matches([], self._search(held, self._with_words("people", words, typos=1), strength_V, limit))

    def _words(self, query: str) -> list[str]:
        return list(dict.fromkeys(self._analyzer.analyze(query)))

    @staticmethod
    def _search(
        held: "_Held", query: Query, strength_V: Strength, limit: int, known: Collection[int] = ()
    ) -> list[int]:
        """The strongest slots of documents that match, without those that are known."""
        out = set(known)
        slots = [slot for slot in held.search(query, HITS_PER_WANTED * limit) if slot not in out]
        return strongest(slots, strength_V, limit - len(out))

    def _with_words(self, field: str, words: list[str], typos: int = 0, least: int | None = None) -> Query:
        """Documents with a word for each of `words`, or for `least` of them: one that begins with it, give or take so
        many typing errors. A short word cannot have one: it would be like everything.
        """
        begun = [self._with_word(field, word, typos if len(word) >= TYPO_MIN_CHARS else 0) for word in words]
        if least is None or least == len(words):
            every = Query.boolean_query([(Occur.Must, one) for one in begun])
        else:
            every = Query.boolean_query([(Occur.Should, one) for one in begun], least)
        return Query.const_score_query(every, 1.0)

    def _with_word(self, field: str, word: str, typos: int) -> Query:
        if len(word) <= EDGE_CHARS and not typos:
            return Query.term_query(self._schema, f"{field}_edges", word, "basic")
        return Query.fuzzy_term_query(self._schema, field, word, typos, transposition_cost_one=True, prefix=True)

    def _write(
        self, writer: IndexWriter, changed: list[int], kept: int, titles: Sequence[str], names: Sequence[str]
    ) -> None:
        for slot in changed:
            if slot < kept:
                writer.delete_documents_by_term("slot", slot)
            if titles[slot] or names[slot]:
                document = Document()
                document.add_integer("slot", slot)
                for field, text in (("title", titles[slot]), ("people", names[slot])):
                    words = self._analyzer.analyze(text)
                    if words:
                        # Each word also with the ones after it: for those who type no spaces.
                        joined = ["".join(words[at:]) for at in range(min(len(words), MAX_JOINED))]
                        document.add_text(field, " ".join([*words, *joined]))
                        document.add_text(f"{field}_edges", _edges([*words, *joined]))
                writer.add_document(document)

    def _heads(self, titles: Sequence[str], changed: list[int]) -> NDArray[np.uint32]:
        """The first characters of each title, (HEAD_CHARS, V): 0 where it has ended."""
        heads = np.zeros((HEAD_CHARS, len(titles)), np.uint32)
        kept = min(len(titles), self._held.heads.shape[1])
        heads[:, :kept] = self._held.heads[:, :kept]
        if changed:
            typed = np.array([titles[slot][:HEAD_CHARS] for slot in changed], f"U{HEAD_CHARS}")
            heads[:, changed] = typed.view(np.uint32).reshape(len(changed), HEAD_CHARS).T
        return heads


class _Held(NamedTuple):
    """What requests read, replaced as a whole."""

    titles: list[str]
    heads: NDArray[np.uint32]
    searcher: Searcher
    has_people: bool

    def beginning_with(self, query: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The slots of the titles that begin with the query, and of each whether it is the query."""
        if not query:
            return np.zeros(0, np.int64), np.zeros(0, np.bool_)
        slots = np.flatnonzero(self.heads[0] == ord(query[0]))
        for place, character in enumerate(query[1:HEAD_CHARS], 1):
            slots = slots[self.heads[place, slots] == ord(character)]
        if len(query) < HEAD_CHARS:
            return slots, self.heads[len(query), slots] == 0
        begins = [slot for slot in slots.tolist() if self.titles[slot].startswith(query)]
        equal = [len(self.titles[slot]) == len(query) for slot in begins]
        return np.array(begins, np.int64), np.array(equal, np.bool_)

    def search(self, query: Query, limit: int) -> list[int]:
        """The slots of at most `limit` documents."""
        addresses = [address for _, address in self.searcher.search(query, limit, count=False).hits]
        return [int(slot) for slot in self.searcher.fast_field_values("slot", addresses) if slot is not None]


def _edges(words: list[str]) -> str:
    return " ".join({word[:size] for word in words for size in range(1, min(len(word), EDGE_CHARS) + 1)})


def strongest(slots: Sequence[int] | NDArray[np.int64], strength_V: Strength, limit: int) -> list[int]:
    """At most `limit` of the slots by falling strength, then by slot; slots that have no strength yet have 0."""
    ordered = np.sort(np.asarray(slots, np.int64))
    if not len(ordered) or limit <= 0:
        return []
    strength = np.where(ordered < len(strength_V), strength_V[np.minimum(ordered, len(strength_V) - 1)], 0.0)
    found: list[int] = ordered[list(islice(best_first(strength, limit), limit))].tolist()
    return found


def best_first(scores_N: NDArray[np.float32], wanted: int) -> Iterator[int]:
    """The places of the scores, the highest first, equal ones in order: `wanted` without sorting the others, which
    are sorted only if somebody asks on.
    """
    if len(scores_N) <= 2 * wanted:
        yield from np.argsort(-scores_N, kind="stable").tolist()
        return
    least = np.partition(scores_N, -wanted)[-wanted]
    for places in (np.flatnonzero(scores_N >= least), np.flatnonzero(scores_N < least)):
        yield from places[np.argsort(-scores_N[places], kind="stable")].tolist()
