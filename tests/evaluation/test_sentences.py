"""The whole suite: a bag of words through every set, what is refused, what an encoder is asked."""

import functools
import re
import zlib

import numpy as np
import pytest

from lnjax.data import sentence_sets
from lnjax.data.sentence_sets import ClassSet, Pairs, PairSet
from lnjax.evaluation import evaluate_encoder, sentences
from tests import runs

FEATURES = 48


@functools.cache
def word_vector(word):
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=FEATURES)


def bag_of_words(texts):
    """Sums of a random vector for each word, of unit length."""
    sums = [sum(map(word_vector, re.findall(r"[a-z']+", text.lower()))) for text in texts]
    return np.stack([total / np.linalg.norm(total) for total in sums])


def chance(texts):
    return np.stack([word_vector(text) for text in texts])


@pytest.fixture(scope="module")
def toy():
    """Pairs that are as related as words are shared; sentences with a telling word."""
    rng = np.random.default_rng(0)
    words = [f"word{'abcdefghij'[i]}" for i in range(10)]

    def text(number=6):
        return " ".join(rng.choice(words, number))

    def pairs(number):
        rows = []
        for shared in rng.integers(0, 5, number):
            first = text()
            second = " ".join([*first.split()[: shared + 1], *text().split()[shared + 1 :]])
            rows.append((first, second, 1.0 + shared))
        first, second, scores = zip(*rows, strict=True)
        return Pairs(list(first), list(second), np.array(scores))

    telling = [f"{text()} {word}" for word in ("good", "bad") for _ in range(40)]
    return {
        "pairs": PairSet(pairs(150), pairs(40), pairs(60)),
        "classes": ClassSet(telling, np.repeat([1, 0], 40)),
    }


@pytest.mark.parametrize("protocol", sentences.PROTOCOLS)
@pytest.mark.some(1)
def test_a_bag_of_words_and_chance(toy, protocol):
    figures = evaluate_encoder(bag_of_words, ["pairs", "classes"], protocol=protocol, data=toy)
    assert list(figures) == ["pairs/pearson", "pairs/spearman", "pairs/mse", "classes/accuracy"]
    assert all(type(value) is float for value in figures.values())
    assert figures["pairs/pearson"] > 0.5 and figures["pairs/spearman"] > 0.5
    assert figures["pairs/mse"] < np.var(toy["pairs"].test.scores)
    assert figures["classes/accuracy"] > 0.9
    again = evaluate_encoder(bag_of_words, iter(["pairs"]), protocol=protocol, data=toy)
    assert again == {key: value for key, value in figures.items() if key.startswith("pairs")}
    nothing = evaluate_encoder(chance, ["pairs", "classes"], protocol=protocol, data=toy)
    assert abs(nothing["pairs/pearson"]) < 0.4 and abs(nothing["classes/accuracy"] - 0.5) < 0.2


def test_the_embedded_sets_at_every_evaluation(embedded_sets):
    """A bag of words is above chance on each, at the protocol for use during training."""
    figures = evaluate_encoder(bag_of_words, embedded_sets, protocol="quick", data=embedded_sets)
    accuracies = {key: value for key, value in figures.items() if key.endswith("accuracy")}
    assert len(figures) == 3 + 4 and len(accuracies) == 4
    assert min(accuracies.values()) > 0.58 and max(accuracies.values()) < 0.99
    assert figures["embedded/relatedness/pearson"] > 0.4


@pytest.fixture(scope="module")
def embedded_sets(tmp_path_factory):
    cache = runs.data_cache(tmp_path_factory)
    return sentence_sets.load("embedded", cache=cache)


def test_an_encoder_that_is_constant_has_no_correlation(toy):
    figures = evaluate_encoder(lambda texts: np.ones((len(texts), 3)), ["pairs"], data=toy)
    assert figures["pairs/pearson"] == figures["pairs/spearman"] == 0
    assert 0 < figures["pairs/mse"] < 10


def test_pairs_may_have_an_encoder_of_their_own(toy):
    asked = {"pairs": [], "classes": []}

    def encoder(kind):
        def encode(texts):
            asked[kind] += texts
            return bag_of_words(texts)

        return encode

    evaluate_encoder(
        encoder("classes"),
        ["classes", "pairs"],
        protocol="quick",
        data=toy,
        encode_pairs=encoder("pairs"),
    )
    parts = toy["pairs"]
    assert sorted(asked["pairs"]) == sorted(text for part in parts for text in part[0] + part[1])
    assert sorted(asked["classes"]) == sorted(toy["classes"].sentences)


def test_unknown_names_are_refused_before_anything_is_encoded(toy):
    def encode(texts):
        raise AssertionError("was asked")

    with pytest.raises(
        ValueError, match=r"no set 'mr' of sentences; known: \['classes', 'pairs'\]"
    ):
        evaluate_encoder(encode, ["pairs", "mr"], data=toy)
    with pytest.raises(ValueError, match=r"protocol='fast'.*'paper', 'senteval', 'quick'"):
        evaluate_encoder(encode, ["pairs"], protocol="fast", data=toy)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: np.ones((len(texts) - 1, 2)), r"\(79, 2\) for 80 sentences"),
        (lambda texts: np.ones(len(texts)), r"\(80,\) for 80 sentences"),
        (
            lambda texts: np.full((len(texts), 2), np.nan),
            "80 vectors that are not finite, the first",
        ),
    ],
)
def test_what_an_encoder_must_not_return(toy, encode, message):
    with pytest.raises(ValueError, match=message):
        evaluate_encoder(encode, ["classes"], data=toy)
