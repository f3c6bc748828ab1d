"""Words as numbers: `tokenize` cuts a text into tokens, a `Vocabulary` gives each token its id.

0 ends a sentence and fills what is behind its end, 1 stands for every word that is not known, and
the words have the ids from 2 on, the most frequent first. A vocabulary is a value: it compares and
hashes by its words, and as JSON (a list of them) it goes into `TaskData.spec`, and so with every
checkpoint.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

END = 0  # of a sentence; also the padding behind it
UNKNOWN = 1
FIRST_WORD = 2
UNKNOWN_WORD = "<unk>"  # what `decode` says for 1

_TOKEN = re.compile(
    r"""
    @\w+                            # a mark, such as @entity3
    | \d+(?:[.,]\d+)+               # a number with its points and commas
    | \w+?(?=n't\b) | n't\b         # do n't
    | '(?:s|m|d|re|ve|ll)\b         # he 's
    | \w+(?:-\w+)*                  # a word, hyphens inside
    | \.{2,} | -{2,} | `` | ''      # an ellipsis, a dash, quotation marks of the Penn Treebank
    | [^\w\s]                       # any other mark alone
    """,
    re.VERBOSE,
)


def tokenize(text: str) -> list[str]:
    """Lower-cased words and marks, English contractions in two as in the Penn Treebank.

    >>> tokenize("He said, “I don’t know John's burnt-offerings!”")
    ['he', 'said', ',', '"', 'i', 'do', "n't", 'know', 'john', "'s", 'burnt-offerings', '!', '"']
    """
    plain = text.lower().translate(_PLAIN)
    return _TOKEN.findall(plain)


_PLAIN = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")  # typographic quotation marks


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words with the ids 2, 3, ... in this order; `len` counts the ids 0 and 1 too.

    Raises: ValueError if a word is no string or empty, or stands twice.

    >>> vocabulary = Vocabulary.from_counts({"b": 3, "c": 5, "a": 3})
    >>> vocabulary.words, len(vocabulary)
    (('c', 'a', 'b'), 5)
    >>> vocabulary.encode(["b", "x", "c"]).tolist(), vocabulary.decode([4, 1, 2, 0, 0])
    ([4, 1, 2], ['b', '<unk>', 'c'])
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        for place, word in enumerate(self.words):  # before `_ids`, which needs what can be a key
            if not isinstance(word, str) or not word:
                raise ValueError(
                    f"word {place + FIRST_WORD} of the vocabulary is {word!r}; expected a string "
                    "of at least one character"
                )
        for place, word in enumerate(self.words):
            if self._ids[word] != place + FIRST_WORD:
                raise ValueError(
                    f"{word!r} is word {place + FIRST_WORD} and word {self._ids[word]} of the "
                    "vocabulary; expected every word once"
                )

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], size: int | None = None, min_count: int = 1
    ) -> "Vocabulary":
        """The words of `counts`, the most frequent first, words of one count in order of letters.

        Args:
            counts: occurrences by word.
            size: ids at most, with 0 and 1: the `size` - 2 most frequent words. None: no limit.
            min_count: words that occur less often are left out.

        Raises: ValueError if `size` is below 3 or `min_count` below 1.
        """
        if size is not None and size <= FIRST_WORD:
            raise ValueError(f"size is {size}; expected at least {FIRST_WORD + 1}, one word")
        if min_count < 1:
            raise ValueError(f"min_count is {min_count}; expected at least 1")
        frequent = [word for word, count in counts.items() if count >= min_count]
        frequent.sort(key=lambda word: (-counts[word], word))
        return cls(tuple(frequent if size is None else frequent[: size - FIRST_WORD]))

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """The vocabulary that `to_json` made `value` of.

        Raises: ValueError if `value` is not a list of words, each once.
        """
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"a vocabulary cannot be made of a {type(value).__name__}; expected a list of words"
            )
        return cls(tuple(value))

    def to_json(self) -> list[str]:
        """The words from id 2 on."""
        return list(self.words)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """The ids of `tokens`, (T,) int32; 1 for what is no word of this vocabulary."""
        return np.array([self._ids.get(token, UNKNOWN) for token in tokens], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The words of `ids` up to the first 0, which ends a sentence; `UNKNOWN_WORD` for 1.

        Raises: ValueError if one of them is no id of this vocabulary, behind the end too.
        """
        numbers = np.asarray(ids)
        if numbers.ndim != 1 or (numbers.size and not np.issubdtype(numbers.dtype, np.integer)):
            raise ValueError(
                f"ids have the shape {numbers.shape} and dtype {numbers.dtype}; expected one row "
                "of integers"
            )
        wrong = (numbers < 0) | (numbers >= len(self))
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(
                f"id {numbers[place]} at place {place} is no word of a vocabulary with the ids 0 "
                f"to {len(self) - 1}"
            )
        ends = np.flatnonzero(numbers == END)
        numbers = numbers[: ends[0]] if ends.size else numbers
        return [UNKNOWN_WORD if i == UNKNOWN else self.words[i - FIRST_WORD] for i in numbers]

    def __len__(self) -> int:
        return len(self.words) + FIRST_WORD

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __hash__(self) -> int:
        return self._hash  # once: what holds a vocabulary is a key of jit's cache at every step

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.words)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=FIRST_WORD)}
