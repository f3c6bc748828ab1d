"""Stand-ins for the sentence-evaluation sets: sentences of two Bible translations, labels by rule.

They have the form of SICK and of MR and its like, so that everything runs on them, but ask other
questions, and nobody judged a sentence: the labels follow from where it stands in the text. Quoted
figures carry the name, `embedded/speech`, never that of a set they stand in for.

relatedness  a verse of the World English Bible and one of the King James Bible: the same verse (5),
             the next one (3), one of the same chapter, 5 to 15 verses on (2), of another book (1)
speech       what stands in quotation marks / verses without any near, in books that tell a story
question     verses that end in a question mark / in a full stop; the mark is gone
testament    Old Testament / New Testament
poetry       Psalms, Proverbs, Song of Songs, Lamentations / books that tell a story

Classes have equal numbers, and within a set no sentence occurs twice. Sentences are of 5 to 25
words, without quotation marks and brackets. An encoder may have been trained on some of these
verses, but never on a label.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from lnjax.data.scripture import Verse, verses
from lnjax.data.sick import Pair

SEED = 0
SHORTEST, LONGEST = 5, 25  # words
CLASS_SIZE = 400
PAIRS = {"train": 800, "trial": 200, "test": 400}
SCORES = {"same": 5.0, "next": 3.0, "chapter": 2.0, "other": 1.0}

NAMES = ("speech", "question", "testament", "poetry")
COUNTS = {f"relatedness_{split}": number for split, number in PAIRS.items()} | {
    f"{name}_{label}": CLASS_SIZE for name in NAMES for label in ("positive", "negative")
}

FIRST_OF_NEW_TESTAMENT = "Matthew"
POETRY = ("Psalms", "Proverbs", "Song of Songs", "Lamentations")
STORY = (
    *("Genesis", "Joshua", "Judges", "Ruth", "1 Samuel", "2 Samuel", "1 Kings", "2 Kings"),
    *("Ezra", "Esther", "Jonah", "Matthew", "Mark", "Luke", "John", "Acts"),
)
_QUOTED = re.compile(r'"([^"]+)"')


def make() -> tuple[dict[str, dict[str, list[Pair]]], dict[str, dict[str, list[str]]]]:
    """The pairs by set and split, and the sentences by set and class."""
    text = verses()
    classes = {
        "speech": _speech(text),
        "question": _question(text),
        "testament": _testament(text),
        "poetry": _poetry(text),
    }
    drawn = {
        name: {
            label: _draw(sentences, [SEED, NAMES.index(name), place])
            for place, (label, sentences) in enumerate(parts.items())
        }
        for name, parts in classes.items()
    }
    return {"relatedness": _pairs(text, verses("KING_JAMES"))}, drawn


def _clean(text: str) -> str:
    """Without quotation marks and brackets; "" if it has not the length of a sentence."""
    text = " ".join(re.sub(r"[\"()\[\]]|(?<!\w)'|'(?!\w)", "", text).split())
    return text if SHORTEST <= len(text.split()) <= LONGEST else ""


def _unique(sentences: Sequence[str]) -> dict[str, str]:
    """The sentences that are not empty, by their letters: once each."""
    return {re.sub(r"\W+", " ", text.lower()): text for text in sentences if text}


def _draw(sentences: Sequence[str], seed: Sequence[int]) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(sentences))
    return [sentences[i] for i in order[:CLASS_SIZE]]


def _disjoint(positive: Sequence[str], negative: Sequence[str]) -> dict[str, list[str]]:
    first, second = _unique(positive), _unique(negative)
    return {
        "positive": [text for words, text in first.items() if words not in second],
        "negative": [text for words, text in second.items() if words not in first],
    }


def _speech(text: Sequence[Verse]) -> dict[str, list[str]]:
    story = [verse for verse in text if verse.book in STORY]
    said = [_clean(span) for verse in story for span in _QUOTED.findall(verse.text)[:1]]
    # Speech may go on for verses between its two marks, and marks are missing in places.
    marked = [i for i, verse in enumerate(story) if '"' in verse.text]
    near = {i + step for i in marked for step in range(-4, 9)}
    told = [_clean(verse.text) for i, verse in enumerate(story) if i not in near]
    return _disjoint(said, told)


def _question(text: Sequence[Verse]) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {"?": [], ".": []}
    for verse in text:
        sentence = _clean(verse.text)
        if sentence and sentence[-1] in ends and "?" not in sentence[:-1]:
            ends[sentence[-1]].append(sentence[:-1].rstrip())
    return _disjoint(ends["?"], ends["."])


def _testament(text: Sequence[Verse]) -> dict[str, list[str]]:
    border = next(i for i, verse in enumerate(text) if verse.book == FIRST_OF_NEW_TESTAMENT)
    old, new = ([_clean(verse.text) for verse in part] for part in (text[:border], text[border:]))
    return _disjoint(old, new)


def _poetry(text: Sequence[Verse]) -> dict[str, list[str]]:
    sung = [_clean(verse.text) for verse in text if verse.book in POETRY]
    told = [_clean(verse.text) for verse in text if verse.book in STORY]
    return _disjoint(sung, told)


def _pairs(first: Sequence[Verse], second: Sequence[Verse]) -> dict[str, list[Pair]]:
    """For each split, as many pairs of each kind, mixed; splits share no book."""
    books = list(dict.fromkeys(verse.book for verse in first))
    splits = {"test": books[0::4], "trial": books[1::8], "train": [*books[2::4], *books[3::4]]}
    pairs = {}
    for place, split in enumerate(PAIRS):
        rng = np.random.default_rng([SEED, len(NAMES), place])
        here = [verse for verse in first if verse.book in splits[split]]
        there = {verse[:3]: text for verse in second if (text := _clean(verse.text))}
        here = [verse for verse in here if _clean(verse.text)]
        drawn = list(_draw_pairs(here, there, PAIRS[split] // len(SCORES), rng))
        pairs[split] = [drawn[i] for i in rng.permutation(len(drawn))]
    return pairs


def _draw_pairs(
    here: Sequence[Verse],
    there: dict[tuple[str, int, int], str],
    number: int,
    rng: np.random.Generator,
) -> Iterator[Pair]:
    """`number` pairs of each kind; no verse of `here` is in two of them."""
    order = iter(rng.permutation(len(here)))
    others = [verse[:3] for verse in here if verse[:3] in there]
    for kind, score in SCORES.items():
        left = number
        while left:
            verse = here[next(order)]
            book, chapter, place = verse[:3]
            if kind == "other":
                partner = others[rng.integers(len(others))]
                partner = (book, 0, 0) if partner[0] == book else partner  # of its book: not there
            else:
                ahead = {"same": 0, "next": 1, "chapter": int(rng.integers(5, 16))}[kind]
                partner = (book, chapter, place + ahead)
            if partner in there:
                left -= 1
                yield Pair(_clean(verse.text), there[partner], score)
