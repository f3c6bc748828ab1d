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

The two classes of a set have the same number of sentences of each length in words, from 5 to 25,
and no sentence occurs twice. Quotation marks and brackets are gone. An encoder may have been
trained on some of these verses, but never on a label.
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
        name: _draw(*sentences, np.random.default_rng([SEED, NAMES.index(name)]))
        for name, sentences in classes.items()
    }
    return {"relatedness": _pairs(text, verses("KING_JAMES"))}, drawn


def _clean(text: str) -> str:
    """Without quotation marks and brackets; "" if it has not the length of a sentence."""
    text = " ".join(re.sub(r"[\"()\[\]]|(?<!\w)'|'(?!\w)", "", text).split())
    return text if SHORTEST <= len(text.split()) <= LONGEST else ""


def _unique(sentences: Sequence[str]) -> dict[str, str]:
    """The sentences that are not empty, by their letters: once each."""
    return {re.sub(r"\W+", " ", text.lower()): text for text in sentences if text}


def _draw(
    positive: Sequence[str], negative: Sequence[str], rng: np.random.Generator
) -> dict[str, list[str]]:
    """CLASS_SIZE sentences of each class, one of the other class of the same length for each."""
    first, second = _unique(positive), _unique(negative)
    of_length: dict[int, tuple[list[str], list[str]]] = {}
    for place, (own, other) in enumerate(((first, second), (second, first))):
        texts = [text for words, text in own.items() if words not in other]
        for i in rng.permutation(len(texts)):
            of_length.setdefault(len(texts[i].split()), ([], []))[place].append(texts[i])
    matched = [
        pair for length in sorted(of_length) for pair in zip(*of_length[length], strict=False)
    ]
    drawn = [matched[i] for i in rng.permutation(len(matched))[:CLASS_SIZE]]
    return {"positive": [pair[0] for pair in drawn], "negative": [pair[1] for pair in drawn]}


def _speech(text: Sequence[Verse]) -> tuple[list[str], list[str]]:
    story = [verse for verse in text if verse.book in STORY]
    said = [_clean(span) for verse in story for span in _QUOTED.findall(verse.text)[:1]]
    # Speech may go on for verses between its two marks, and marks are missing in places.
    marked = [i for i, verse in enumerate(story) if '"' in verse.text]
    near = {i + step for i in marked for step in range(-4, 9)}
    told = [_clean(verse.text) for i, verse in enumerate(story) if i not in near]
    return said, told


def _question(text: Sequence[Verse]) -> tuple[list[str], list[str]]:
    ends: dict[str, list[str]] = {"?": [], ".": []}
    for verse in text:
        sentence = _clean(verse.text)
        if sentence and sentence[-1] in ends and "?" not in sentence[:-1]:
            ends[sentence[-1]].append(sentence[:-1].rstrip())
    return ends["?"], ends["."]


def _testament(text: Sequence[Verse]) -> tuple[list[str], list[str]]:
    border = next(i for i, verse in enumerate(text) if verse.book == FIRST_OF_NEW_TESTAMENT)
    old, new = ([_clean(verse.text) for verse in part] for part in (text[:border], text[border:]))
    return old, new


def _poetry(text: Sequence[Verse]) -> tuple[list[str], list[str]]:
    sung = [_clean(verse.text) for verse in text if verse.book in POETRY]
    told = [_clean(verse.text) for verse in text if verse.book in STORY]
    return sung, told


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
    """`number` pairs of each kind; no first sentence is in two of them."""
    order = iter(rng.permutation(len(here)))
    others = [verse[:3] for verse in here if verse[:3] in there]
    seen = set()
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
            sentence = _clean(verse.text)
            if partner in there and sentence not in seen:
                seen.add(sentence)
                left -= 1
                yield Pair(sentence, there[partner], score)
