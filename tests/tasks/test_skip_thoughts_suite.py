"""The sentence evaluations during training: every sentence has its own vector, in any batch."""

import dataclasses
import sys
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest

from lnjax.data.vocabulary import tokenize
from tasks.skip_thoughts import encoder, suite
from tests.tasks.test_skip_thoughts import TASK, make_config, random_params


class Pairs(NamedTuple):
    """As in lnjax.data.sentence_sets."""

    first: list
    second: list
    scores: np.ndarray


class PairSet(NamedTuple):
    train: Pairs
    trial: Pairs
    test: Pairs


class ClassSet(NamedTuple):
    sentences: list
    labels: np.ndarray


SETS = {
    "pairs": PairSet(
        Pairs(["a b", "c"], ["b", "a b"], np.array([1.0, 5.0])),
        Pairs(["d e f"], ["g"], np.array([2.0])),
        Pairs(["a a"], ["c"], np.array([3.0])),
    ),
    "classes": ClassSet(["a b", "g f e d c b a b c", "x"], np.array([1, 0, 0])),
    "unused": ClassSet(["b b"], np.array([1])),
}
SUITE = suite.Suite(("classes", "pairs"), "embedded", "", "quick")
TASK_WITH = dataclasses.replace(TASK, suite=SUITE)


@pytest.fixture
def asked(monkeypatch):
    """Small sets, and an evaluation that keeps what it is asked instead of fitting anything."""
    calls = []

    def evaluate_encoder(encode, names, *, protocol, data, encode_pairs):
        calls.append((encode, encode_pairs, names, protocol, data))
        return {"classes/accuracy": 0.5}

    sets = types.SimpleNamespace(load=lambda config, folder: {} if folder else SETS)
    import lnjax.data

    monkeypatch.setitem(sys.modules, "lnjax.data.sentence_sets", sets)
    monkeypatch.setattr(lnjax.data, "sentence_sets", sets, raising=False)
    evaluation = types.SimpleNamespace(evaluate_encoder=evaluate_encoder)
    monkeypatch.setitem(sys.modules, "lnjax.evaluation", evaluation)
    suite.sets_of.cache_clear()
    yield calls
    suite.sets_of.cache_clear()


def test_the_suite_gets_the_vectors_of_its_sentences(asked, rng):
    params = jax.device_put(random_params(TASK, rng))
    batches = list(suite.batches(SUITE, TASK.vocabulary, batch_size=4))
    shapes = [batch["sentence"].shape for batch in batches]
    assert shapes == [(4, 8), (4, 8), (4, 16)]
    sentences = ["a b", "g f e d c b a b c", "x", "c", "b", "d e f", "g", "a a"]
    assert suite.sentences_of({name: SETS[name] for name in SUITE.names}) == sentences

    loss, aux = TASK_WITH.loss(params, {}, batches[0], {}, train=False)
    assert float(loss) == 0 and aux.sums == {}
    outputs = jax.jit(lambda params, batch: TASK_WITH.outputs(params, {}, batch, {}))
    pairs = ((batch, outputs(params, batch)) for batch in batches)
    assert TASK_WITH.evaluate(pairs) == {"classes/accuracy": 0.5}
    ((encode, encode_pairs, names, protocol, data),) = asked
    assert (names, protocol, set(data)) == (SUITE.names, "quick", set(names))
    vectors = encoder.of(TASK, params)
    order = [3, 0, 2, 1, 0]
    given = [sentences[i] for i in order]
    assert all(tokenize(sentence) for sentence in given)
    for found, end in ((encode(given), False), (encode_pairs(given), True)):
        np.testing.assert_allclose(found, vectors(given, end=end), rtol=1e-4, atol=1e-5)


def test_other_splits_have_no_suite(asked, rng):
    assert TASK_WITH.outputs({}, {}, {"mask": np.ones(2, bool)}, {}) == {}
    assert TASK_WITH.evaluate(iter([({"mask": np.ones(2, bool)}, {})])) == {}
    assert TASK.evaluate(iter([({"mask": np.ones(2, bool)}, {})])) == {}
    assert asked == []


def test_names_in_the_config(asked):
    from tasks import skip_thoughts

    spec = {"vocabulary": ["a"]}
    config = make_config(sentence_tasks="classes, pairs", sentence_protocol="paper")
    task = skip_thoughts.make_task(config, spec)
    assert task.suite == SUITE._replace(protocol="paper")
    assert skip_thoughts.make_task(make_config(), spec).suite is None
    unknown = SUITE._replace(names=("classes", "mr"))
    with pytest.raises(ValueError, match=r"sentence_tasks names 'mr'.*classes, pairs, unused"):
        suite.sets_of(unknown)
