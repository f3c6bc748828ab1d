"""The embedded questions: two translators tell the same event, and a name is missing in one.

The passage is four consecutive verses of the World English Bible, the question one of them in the
words of the King James Version with one name replaced by `@placeholder`; the name, which occurs in
the passage, is the answer. It has the form of the CNN questions (an article, and somebody else's
sentence about it) and real text on both sides. As there, names are anonymised: in each question
they become `@entity0` to `@entity9`, dealt out at random, so that nothing is known of a name but
where it stands. The held-out questions are of whole books.

A name is a word that is capitalised in mid-sentence three times or more in the two translations and
hardly ever written in lower case: a rule, which lets a few others pass ("Amen", "Selah").
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lnjax.data.cloze import PLACEHOLDER
from lnjax.data.scripture import Verse, verses
from lnjax.data.vocabulary import tokenize

SEED = 0
PASSAGE, QUESTION = "WORLD_ENGLISH", "KING_JAMES"
BOOKS = {"validation": ("1 Samuel", "Matthew"), "test": ("Acts",)}
NUM_QUESTIONS = {"train": 14_196, "validation": 1_012, "test": 1_247}
VERSES, STRIDE = 4, 2  # verses of a passage, and from one to the next: two follow one another
# Left out is what has more than this: most of it are lists of names, and very long sentences.
NUM_ENTITIES, MAX_PASSAGE, MAX_QUESTION = 10, 120, 40
MIN_MID_SENTENCE, MAX_LOWER_SHARE = 3, 0.05

_CAPITALISED = re.compile(r"(?<![A-Za-zÆæ-])[A-ZÆ][A-Za-zÆæ]*(?:-[A-Za-zÆæ]+)*")
_LOWER = re.compile(r"(?<![A-Za-zÆæ-])[a-zæ]+(?:-[A-Za-zÆæ]+)*")


def names(texts: Iterable[str]) -> frozenset[str]:
    """The words of `texts` that the rule at the head of this module takes for names."""
    mid_sentence: Counter[str] = Counter()
    capitalised: Counter[str] = Counter()
    lower: Counter[str] = Counter()
    for text in texts:
        lower.update(_LOWER.findall(text))
        for match in _CAPITALISED.finditer(text):
            word = match.group()
            capitalised[word] += 1
            before = text[: match.start()].rstrip(" \"'([\u2018\u201c")
            if before and (before[-1].isalpha() or before[-1] in ",;"):
                mid_sentence[word] += 1
    return frozenset(
        word
        for word, count in mid_sentence.items()
        if count >= MIN_MID_SENTENCE
        and len(word) > 1
        and not word.isupper()  # GOD, LORD
        and lower[word.lower()] <= MAX_LOWER_SHARE * capitalised[word]
    )


def all_questions() -> Mapping[str, list[dict[str, Any]]]:
    """Every split: examples with `passage`, `question`, `answer` and `id`, see `lnjax.data.cloze`.

    In the order of the books, of the verses, and of the names in the question.
    """
    passages, told = verses(PASSAGE), verses(QUESTION)
    known = names(verse.text for verse in (*passages, *told))
    number = {name: i for i, name in enumerate(sorted(known))}
    question_of = {verse[:3]: _tokens(verse.text, number) for verse in told}
    split_of = {book: split for split, books in BOOKS.items() for book in books}
    found: dict[str, list[dict[str, Any]]] = {"train": [], **{split: [] for split in BOOKS}}
    ordinal = 0
    for (book, _), chapter in itertools.groupby(passages, key=lambda verse: verse[:2]):
        of_chapter = list(chapter)
        for first in range(0, len(of_chapter) - VERSES + 1, STRIDE):
            for example in _questions(of_chapter[first : first + VERSES], question_of, number):
                rng = np.random.default_rng([SEED, ordinal])
                ordinal += 1
                if anonymised := _anonymised(example, rng):
                    found[split_of.get(book, "train")].append(anonymised)
    return found


def _tokens(text: str, number: Mapping[str, int]) -> list[str]:
    """Tokens in lower case, a name as the mark @n and its number."""

    def mark(match: re.Match[str]) -> str:
        word = match.group()
        return f"@n{number[word]}" if word in number else word

    return tokenize(_CAPITALISED.sub(mark, re.sub(r"[\[\]]", "", text)))


def _is_name(token: str) -> bool:
    return token.startswith("@n")


def _questions(
    passage: list[Verse], question_of: Mapping[Any, list[str]], number: Mapping[str, int]
) -> Iterator[tuple[list[str], list[str], str, str]]:
    """Passage, question with the placeholder, answer and id of each question on four verses."""
    tokens = [token for verse in passage for token in _tokens(verse.text, number)]
    present = set(filter(_is_name, tokens))
    if len(present) < 2 or len(tokens) > MAX_PASSAGE:
        return  # with one name there is nothing to choose
    for verse in passage:
        question = question_of.get(verse[:3], [])
        for answer in dict.fromkeys(token for token in question if token in present):
            hidden = [PLACEHOLDER if token == answer else token for token in question]
            if hidden.count(PLACEHOLDER) == 1 and len(hidden) <= MAX_QUESTION:
                # Book and chapter, first verse of the passage, verse and token of the question.
                place = f"{verse.book} {verse.chapter}:{passage[0].verse}"
                yield tokens, hidden, answer, f"{place}/{verse.verse}/{question.index(answer)}"


def _anonymised(
    example: tuple[list[str], list[str], str, str], rng: np.random.Generator
) -> dict[str, str] | None:
    """The example with its names dealt out at random; None if there are too many of them."""
    passage, question, answer, example_id = example
    present = list(dict.fromkeys(filter(_is_name, (*passage, *question))))
    if len(present) > NUM_ENTITIES:
        return None
    dealt = rng.permutation(NUM_ENTITIES)[: len(present)].tolist()
    entity = {name: f"@entity{i}" for name, i in zip(present, dealt, strict=True)}
    return {
        "passage": " ".join(entity.get(token, token) for token in passage),
        "question": " ".join(entity.get(token, token) for token in question),
        "answer": entity[answer],
        "id": example_id,
    }
