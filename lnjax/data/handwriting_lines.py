"""The embedded handwriting set: lines of the World English Bible written by the synthetic pen.

The text is split by book before anything is drawn, and a line that also occurs in the books of an
earlier split is left out, so no line is in two splits. Plain prose would show X or Q a handful of
times; lines are therefore chosen for the character that is rarest so far, until every character of
`ALPHABET` has been written `min_count` times, and at random from then on. A capital that prose
lacks is made by writing the line In Title Case, or one word of it in CAPITALS: about 20 % and 32 %
of the training lines, 12 % and 13 % of the others.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lnjax.data import synthetic_pen
from lnjax.data.scripture import ALPHABET, cut_lines, plain, verses

SEED = 0
SPLITS = ("train", "validation", "test")  # the position is the second word of the generator's seed
NUM_LINES = {"train": 4000, "validation": 400, "test": 400}
# Occurrences of every character, as far as there are lines: q has fewer in the training books.
MIN_COUNT = {"train": 250, "validation": 10, "test": 10}
BOOKS = {"validation": ("2 Samuel", "Luke"), "test": ("1 Samuel", "Acts")}
CHARACTERS = (10, 18)  # of a line, before it is written
MAX_STYLES = 4  # styles that are tried on a long line before another line is taken
MAX_POINTS = 224  # longer lines are not taken, so that the width of a batch stays near the mean


def candidates() -> dict[str, list[tuple[str, str]]]:
    """Every line as (id, text) by split, in the books' order; no text twice over all splits."""
    split_of = {book: split for split, books in BOOKS.items() for book in books}
    by_split: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for index, (book, chapter, verse, text) in enumerate(verses()):
        rng = np.random.default_rng([SEED, index])
        for part, line in enumerate(cut_lines(plain(text), rng, *CHARACTERS)):
            by_split[split_of.get(book, "train")].append((f"{book} {chapter}:{verse}/{part}", line))
    seen: set[str] = set()
    unique: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for line_id, line in by_split[split]:
            if (
                line.casefold() not in seen
            ):  # casefold: the same words in Title Case are the same line
                seen.add(line.casefold())
                unique[split].append((line_id, line))
    return unique


def with_character(line: str, character: str) -> str:
    """Renders `line` so that it holds `character`: as it is, In Title Case, or one word in
    CAPITALS.

    `line` must hold `character` or, for a capital, its small letter.
    """
    if character in line:
        return line
    words = line.split(" ")
    if any(word.startswith(character.lower()) for word in words):
        return " ".join(word[:1].upper() + word[1:] for word in words)
    chosen = next(i for i, word in enumerate(words) if character.lower() in word)
    return " ".join(word.upper() if i == chosen else word for i, word in enumerate(words))


def write_split(
    lines: list[tuple[str, str]], num_lines: int, min_count: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Chooses and writes `num_lines` of the (id, text) in `lines`.

    Returns: examples with `strokes` (T <= MAX_POINTS, 3) float32, `text`, `id` and `writer` (""),
        in random order.
    """
    order = rng.permutation(len(lines))
    pools: dict[str, list[int]] = {character: [] for character in ALPHABET}
    for index in order:
        line = lines[index][1]
        for character in set(line + line.upper()):  # a capital can be had from either case
            pools[character].append(index)
    counts = dict.fromkeys(ALPHABET, 0)
    used: set[int] = set()
    examples: list[dict[str, Any]] = []
    remaining = list(order)
    while len(examples) < num_lines:
        # A character whose lines are used up can become no less rare.
        rare = [c for c in ALPHABET if counts[c] < min_count and pools[c]]
        wanted = min(rare, key=counts.__getitem__) if rare else ""
        index = (pools[wanted] if wanted else remaining).pop()
        if index in used:
            continue
        used.add(index)
        line_id, line = lines[index]
        text = with_character(line, wanted) if wanted else line
        for _ in range(MAX_STYLES):
            strokes = synthetic_pen.write(text, synthetic_pen.draw_style(rng), rng)
            if len(strokes) <= MAX_POINTS:
                break
        else:
            continue
        for character in text:
            counts[character] += 1
        examples.append({"strokes": strokes, "text": text, "id": line_id, "writer": ""})
    return [examples[i] for i in rng.permutation(num_lines)]


def write_all() -> Mapping[str, list[dict[str, Any]]]:
    """Writes every split of the set; see `write_split` for an example's fields."""
    lines = candidates()
    return {
        split: write_split(
            lines[split],
            NUM_LINES[split],
            MIN_COUNT[split],
            np.random.default_rng([SEED, number]),
        )
        for number, split in enumerate(SPLITS)
    }
