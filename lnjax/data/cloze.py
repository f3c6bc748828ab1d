"""Questions on a passage with one entity left out: their marks, and what a guess reaches.

A question is three texts of tokens with a blank between: `passage`, `question` with one
`@placeholder`, `answer`. Entities are the tokens `@entity0`, `@entity1`, ...
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

PLACEHOLDER = "@placeholder"
ENTITY = re.compile(r"@entity(\d+)")
WINDOW = 4  # words on either side of a place

Question = Mapping[str, str]


def is_entity(token: str) -> bool:
    return ENTITY.fullmatch(token) is not None


def baselines(questions: Iterable[Question]) -> dict[str, float]:
    """The accuracies of four ways to guess, none of which has learned anything.

    "random": one of the entities of the passage. "most frequent": the one that the passage names
    most often; "most frequent not in the question": the same among those that the question does not
    name (among all if there is none). "word overlap": the one that has around some place of the
    passage the most of the words that stand around the placeholder, `WINDOW` on either side.
    Entities that tie share the point; with an answer that the passage does not name none is won.

    Raises: ValueError if there is no question.
    """
    guesses = {
        "random": lambda passage, question: Counter(dict.fromkeys(filter(is_entity, passage), 1)),
        "most frequent": lambda passage, question: Counter(filter(is_entity, passage)),
        "most frequent not in the question": most_frequent_elsewhere,
        "word overlap": word_overlap,
    }
    won = dict.fromkeys(guesses, 0.0)
    number = 0
    for example in questions:
        number += 1
        passage, question = example["passage"].split(), example["question"].split()
        for name, scores in guesses.items():
            won[name] += share(scores(passage, question), example["answer"])
    if not number:
        raise ValueError("there are no questions; baselines need at least one")
    return {name: points / number for name, points in won.items()}


def share(scores: Mapping[str, int], answer: str) -> float:
    """1 if `answer` alone has the highest score, 1/n if it ties with n - 1 others, else 0."""
    best = max(scores.values(), default=0)
    return (scores.get(answer) == best) / sum(score == best for score in scores.values() or [0])


def most_frequent_elsewhere(passage: Sequence[str], question: Sequence[str]) -> Counter[str]:
    """How often the passage names each entity that the question does not name."""
    counts = Counter(filter(is_entity, passage))
    others = Counter({name: n for name, n in counts.items() if name not in question})
    return others or counts


def word_overlap(passage: Sequence[str], question: Sequence[str]) -> Counter[str]:
    """For each entity the most words that one of its places shares with the placeholder's."""
    asked = Counter(around(question, question.index(PLACEHOLDER)))
    best: Counter[str] = Counter()
    for place, token in enumerate(passage):
        if is_entity(token):
            common = (Counter(around(passage, place)) & asked).total()
            best[token] = max(best[token], common)
    return best


def around(tokens: Sequence[str], place: int) -> list[str]:
    """Up to `WINDOW` tokens before `place` and as many behind it."""
    return [*tokens[max(place - WINDOW, 0) : place], *tokens[place + 1 : place + 1 + WINDOW]]


def relevant_sentences(context: Sequence[str], question: Sequence[str], number: int) -> list[str]:
    """The `number` sentences of `context` most like the question, in the order of the text.

    A sentence ends behind . ! or ? and the quotation marks that follow; it is as like the question
    as it has different tokens of it, punctuation and the placeholder not counted; of sentences that
    tie the earlier one is taken.
    """
    asked = {token for token in question if token != PLACEHOLDER and any(map(str.isalnum, token))}
    of_text = sentences(context)
    scores = np.array([len(asked.intersection(sentence)) for sentence in of_text])
    chosen = np.sort(np.argsort(-scores, kind="stable")[:number])
    return [token for place in chosen for token in of_text[place]]


def sentences(tokens: Sequence[str]) -> list[list[str]]:
    """Cuts tokens into sentences, see `relevant_sentences`; what is behind the last end is one."""
    found: list[list[str]] = [[]]
    ended = False
    for token in tokens:
        if ended and token not in _QUOTES:
            found.append([])
            ended = False
        found[-1].append(token)
        ended = ended or token in _ENDS
    return found if found[-1] else found[:-1]


_ENDS = {".", "!", "?"}
_QUOTES = {"'", '"', "''", "\u2019", "\u201d"}
