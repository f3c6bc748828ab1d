"""The attentive reader: network and loss from the equations, sizes, starts, batches, config."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import attentive_reader as config_file
from lnjax.data.vocabulary import FIRST_WORD, Vocabulary
from tasks import attentive_reader
from tasks.attentive_reader import questions
from tasks.attentive_reader.network import NORMS, masked_softmax
from tests.tasks import reader_oracle

ENTITIES, WORDS, H = 4, 13, 3
SPEC = {"vocabulary_size": WORDS, "num_entities": ENTITIES, "max_steps": 8}
PASSAGES = [[2, 7, 3, 12, 5, 2], [9, 4, 4, 3], [10, 2, 11, 3, 8], []]
QUESTIONS = [[6, 7, 3], [10, 6, 11, 4], [2, 6], []]
ANSWERS = [2, 4, 3, 0]


def make_task(norm="layer", variant="smoke", spec=SPEC, **changes):
    config = config_file.get_config(variant)
    config.update({"norm": norm, **changes})
    return attentive_reader.make_task(config, spec)


def padded(rows, width):
    """NumPy rows with words behind their ends: nothing may look at them."""
    table = np.full((len(rows), width), 12, np.int32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table, np.array([len(row) for row in rows], np.int32)


def make_batch(rows=range(4)):
    rows = list(rows)
    passage, passage_length = padded([PASSAGES[n] for n in rows], 7)
    question, question_length = padded([QUESTIONS[n] for n in rows], 5)
    return {
        "passage": passage,
        "passage_length": passage_length,
        "question": question,
        "question_length": question_length,
        "answer": np.array([ANSWERS[n] for n in rows], np.int32),
        "mask": np.array([bool(PASSAGES[n]) for n in rows]),
    }


@cache
def shapes(task):
    return jax.eval_shape(task.init, jax.random.key(0), make_batch())


def random_variables(task, rng):
    """Nothing at 0 or 1; variances positive."""

    def noise(path, leaf):
        values = rng.normal(0.2, 0.6, leaf.shape)
        positive = path[-1].key.startswith("var") or path[-1].key == "count"
        return (np.abs(values) + 0.3 if positive else values).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(noise, shapes(task))
    return variables.pop("params"), variables


@cache
def compiled(task, train):
    def loss(params, model_state, batch):
        rngs = {"dropout": jax.random.key(1)}
        return task.loss(params, model_state, batch, rngs, train=train)

    return jax.jit(jax.value_and_grad(loss, has_aux=True) if train else loss)


# ---- the equations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "norm"),
    [("passage", norm) for norm in NORMS if norm != "rms"]
    + [("vocabulary", norm) for norm in ("none", "layer")],  # the readout does not know the norm
)
@pytest.mark.some(3)
def test_training_is_what_the_equations_say(norm, answers, rng):
    task = make_task(norm, features=H, answers=answers)
    params, state = random_variables(task, rng)
    batch = make_batch()
    (loss, aux), grads = compiled(task, True)(params, state, batch)

    real = {name: value[:3] for name, value in batch.items()}  # the last row is padding
    logits, _ = reader_oracle.logits_and_attention(params, real, norm=norm)
    nats, wrong = 0.0, 0
    for row, of_row in enumerate(logits):
        scores = dict(enumerate(of_row, start=FIRST_WORD if answers == "passage" else 0))
        if answers == "passage":
            scores = {word: value for word, value in scores.items() if word in PASSAGES[row]}
        p = dict(zip(scores, reader_oracle.softmax(list(scores.values())), strict=True))
        nats -= np.log(p[ANSWERS[row]] + 1e-8)
        wrong += max(scores, key=scores.get) != ANSWERS[row]
    expected = {"loss": nats, "error": wrong, "accuracy": 3 - wrong}
    assert {name: float(number) for name, (_, number) in aux.sums.items()} == dict.fromkeys(
        expected, 3
    )
    for name, value in expected.items():
        np.testing.assert_allclose(aux.sums[name][0], value, rtol=2e-4)
    np.testing.assert_allclose(loss, nats / 3, rtol=2e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert jax.tree.structure(aux.model_state) == jax.tree.structure(state)


def test_attention_is_what_the_equations_say(rng):
    task = make_task("layer", features=H)
    params, _ = random_variables(task, rng)
    batch = make_batch()
    _, got = jax.jit(lambda p, b: task.network.apply({"params": p}, b, train=False))(params, batch)
    real = {name: value[:3] for name, value in batch.items()}
    _, expected = reader_oracle.logits_and_attention(params, real, norm="layer")
    for row, alpha in enumerate(expected):
        np.testing.assert_allclose(got[row, : len(alpha)], alpha, rtol=2e-4)
        assert not np.any(got[row, len(alpha) :])
    assert not np.any(got[3])


@pytest.mark.parametrize("norm", ["layer", "batch_everywhere"])
def test_nan_in_the_padding_reaches_nothing(norm, rng):
    """Behind the ends, and in the row of padding, stands a word whose vector is NaN."""
    task = make_task(norm, features=H)
    params, state = random_variables(task, rng)
    clean, dirty = make_batch(), make_batch()
    for part in ("passage", "question"):
        behind = np.arange(clean[part].shape[1]) >= clean[f"{part}_length"][:, None]
        assert behind.any(axis=1).sum() > 2 and not (clean[part][~behind] == 1).any()
        dirty[part][behind] = 1
    poured = jax.tree.map(np.copy, params)
    poured["embedding"]["embedding"][1] = np.nan
    expected, got = (
        compiled(task, True)(params, state, clean),
        compiled(task, True)(poured, state, dirty),
    )
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("norm", ["layer", "batch_everywhere"])
def test_evaluation_of_a_question_does_not_see_the_others(norm, rng):
    task = make_task(norm, features=H)
    params, state = random_variables(task, rng)
    evaluate = compiled(task, False)
    _, together = evaluate(params, state, make_batch())
    alone = [evaluate(params, state, make_batch([row, 3, 3, 3]))[1].sums for row in range(3)]
    for name, (total, number) in together.sums.items():
        assert number == 3
        np.testing.assert_allclose(total, sum(one[name][0] for one in alone), rtol=1e-4, atol=1e-5)
    assert together.model_state is not state
    jax.tree.map(np.testing.assert_array_equal, together.model_state, state)


def test_dropout_is_of_training_only(rng):
    plain, task = (make_task("none", features=H, dropout=rate) for rate in (0.0, 0.5))
    params, state = random_variables(task, rng)
    batch = make_batch()
    (dropped, _), _ = compiled(task, True)(params, state, batch)
    (kept, _), _ = compiled(plain, True)(params, state, batch)
    assert abs(dropped - kept) > 1e-3
    evaluated, _ = compiled(task, False)(params, state, batch)
    np.testing.assert_allclose(evaluated, kept, rtol=1e-5)


def test_an_answer_that_the_passage_lacks_is_an_error_of_finite_nats(rng):
    task = make_task("none", features=H)
    params, state = random_variables(task, rng)
    batch = make_batch([0, 3, 3, 3])
    batch["answer"][0] = 4
    (loss, aux), grads = compiled(task, True)(params, state, batch)
    np.testing.assert_allclose(loss, -math.log(1e-8), rtol=1e-5)
    assert aux.sums["error"][0] == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_masked_softmax_of_any_scores():
    scores = jnp.array([[1000.0, 1001.0, jnp.nan], [-1e30, 5.0, 5.0], [1.0, 2.0, 3.0]])
    mask = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
    got = masked_softmax(scores, mask)
    e = math.exp(1)
    np.testing.assert_allclose(got, [[1 / (1 + e), e / (1 + e), 0], [1, 0, 0], [0, 0, 0]], 1e-6)


# ---- sizes and starts ------------------------------------------------------------------------


def sizes(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("norm", NORMS)
def test_number_of_parameters_is_the_papers(norm):
    spec = {**SPEC, "vocabulary_size": 65_830}
    variables = jax.eval_shape(make_task(norm, "paper", spec).init, jax.random.key(0), make_batch())
    params = variables["params"]
    # The paper's Eq. 20-22 have 8 * 240 more: two betas of which lnjax needs none.
    extra = 0 if norm == "none" else 2 * 960 + 2 * 240
    for name in ("passage_lstm", "question_lstm"):
        assert sizes(params[name]) == 461_760 + extra
    assert sizes(params["embedding"]) == 65_830 * 240  # 15.8 M
    assert sizes(params["logits"]) == 65_830 * 241  # 15.9 M
    everywhere = 5 * 240 if norm == "batch_everywhere" else 0
    rest = 6 * 240 * 240 + 240 + 2 * 240 + 2 * 240  # W_bi and five maps; v; b_c, b_o; h_0
    assert sizes(params) == 2 * (461_760 + extra) + 65_830 * 481 + rest + everywhere
    assert set(variables) == ({"params", "batch_stats"} if "batch" in norm else {"params"})


@cache
def started(norm, variant, **changes):
    task = dataclasses.replace(make_task(norm, variant), features=8, **changes)
    return jax.jit(task.init)(jax.random.key(0), make_batch())["params"]


def test_the_papers_start():
    params = started("layer", "paper")
    kernels = [
        block
        for name in ("passage_lstm", "question_lstm")
        for part in ("kernel", "recurrent_kernel")
        for block in np.split(params[name]["cell"][part], 4, axis=1)
    ]
    for block in kernels:  # the same seed for each of them
        np.testing.assert_array_equal(block, kernels[0])
    assert make_task("layer", "paper").identical_lstms
    for square in (kernels[0], params["similarity_kernel"], params["output_mean"]["kernel"]):
        np.testing.assert_allclose(square @ square.T, 0.0025 * np.eye(8), atol=1e-6)
    limit = math.sqrt(6 / (WORDS + 8 + 1))
    for table in (params["embedding"]["embedding"], params["logits"]["kernel"]):
        assert 0.8 * limit < np.abs(table).max() <= limit
    assert np.abs(params["attention_kernel"]).max() <= math.sqrt(1 / 8)
    assert not np.any(params["passage_lstm_h"]) and not np.any(params["logits"]["bias"])
    assert np.all(params["passage_lstm"]["cell"]["scale_h"] == 1)
    assert not np.any(params["passage_lstm"]["cell"]["bias"])


def test_the_start_by_the_options():
    gains = {"initial_gain": 0.5, "recurrent_gain": 0.25}
    params = started("layer", "paper", **gains, identical_gates=False, forget_offset=2.0)
    cell = params["passage_lstm"]["cell"]
    first, second, *_ = np.split(cell["kernel"], 4, axis=1)
    assert not np.allclose(first, second)
    for name, gain in (("scale_x", 0.5), ("scale_h", 0.25), ("scale_c", 0.5)):
        np.testing.assert_array_equal(cell[name], np.full(cell[name].shape, gain))
    np.testing.assert_array_equal(np.split(cell["bias"], 4)[1], np.full(8, 2.0))
    assert sum(map(abs, cell["bias"].tolist())) == 16
    other = params["question_lstm"]["cell"]["kernel"]
    np.testing.assert_array_equal(other, cell["kernel"])
    wide = started(
        "layer", "paper", embedding_init=3.0, identical_lstms=False, identical_gates=False
    )
    assert 2 < np.std(wide["embedding"]["embedding"]) < 4
    kernels = [wide[f"{name}_lstm"]["cell"]["kernel"] for name in ("passage", "question")]
    assert not np.allclose(*kernels)


def test_batch_norm_starts_with_gains_of_a_tenth():
    params = started("batch_everywhere", "smoke")
    maps = [name for name, layer in params.items() if name.split("_")[0] in ("attention", "output")]
    normed = [name for name in maps if isinstance(params[name], dict)]
    assert len(normed) == 5
    scales = [params[name]["scale"] for name in normed]
    scales += [params["question_lstm"]["cell"][name] for name in ("scale_x", "scale_h", "scale_c")]
    assert all(np.all(scale == np.float32(0.1)) for scale in scales)


# ---- batches ---------------------------------------------------------------------------------

EXAMPLES = [
    {"passage": "a @entity1 b . @entity0 a", "question": "b @placeholder", "answer": "@entity0"},
    {"passage": "@entity1 b b", "question": "@placeholder c a", "answer": "@entity1"},
    {"passage": "c @entity2", "question": "a @placeholder b c", "answer": "@entity2"},
]
COUNTS = {"@entity0": 9, "@placeholder": 9, "b": 3, "a": 5, "c": 1, ".": 2, "@entity1": 1}


def test_vocabulary():
    marks = ("@entity0", "@entity1", "@entity2", "@placeholder")
    all_words = questions.make_vocabulary(COUNTS, 3, size=None, min_count=1)
    assert all_words == Vocabulary((*marks, "a", "b", ".", "c"))
    assert questions.make_vocabulary(COUNTS, 3, size=8, min_count=1).words == (*marks, "a", "b")
    assert questions.make_vocabulary(COUNTS, 3, size=None, min_count=3).words == (*marks, "a", "b")
    assert questions.count_entities(COUNTS, [EXAMPLES]) == 3
    assert questions.count_entities({"a": 1}, []) == 0


def encoded(**kwargs):
    vocabulary = questions.make_vocabulary(COUNTS, 3, size=8, min_count=1)
    return questions.encode(EXAMPLES, vocabulary, **{"drop_last_token": False, **kwargs})


def test_batches_of_questions():
    batch = questions.collate(encoded(), [2, 0], 7, 4)
    assert batch["passage"].tolist() == [[1, 4, 0, 0, 0, 0, 0], [6, 3, 7, 1, 2, 6, 0]]
    assert batch["question"].tolist() == [[6, 5, 7, 1], [7, 5, 0, 0]]
    assert batch["passage_length"].tolist() == [2, 6] and batch["answer"].tolist() == [4, 2]
    assert batch["question_length"].tolist() == [4, 2] and batch["mask"].tolist() == [True, True]
    assert {str(value.dtype) for value in batch.values()} == {"int32", "bool"}
    short = encoded(drop_last_token=True)
    assert short.passage.lengths.tolist() == [5, 2, 1]
    assert short.question.lengths.tolist() == [1, 2, 3]


def test_widths():
    split = encoded()  # passages of 6, 3, 2 with questions of 2, 3, 4 tokens
    assert questions.edges_for([split], "2 4 9 20") == (2, 4, 9)
    assert questions.edges_for([split], "2 4") == (2, 4, 6)
    assert questions.question_widths([split], (2, 3, 6)) == {2: 4, 3: 4, 6: 4}
    assert questions.question_widths([split], (1, 9)) == {1: 1, 9: 4}
    for edges in ("", "4 2", "0 3", "a"):
        with pytest.raises(ValueError, match="ascending"):
            questions.edges_for([split], edges)


def test_entities_are_permuted_and_words_are_not():
    batch = questions.collate(encoded(), [0, 1, 2], 6, 4)
    seen = set()
    for seed in range(30):
        new = questions.permute_entities(batch, np.random.default_rng(seed), 3)
        table = {}
        for name in ("passage", "question", "answer"):
            pairs = zip(batch[name].ravel().tolist(), new[name].ravel().tolist(), strict=True)
            for old, now in pairs:
                assert table.setdefault(old, now) == now
                assert (2 <= now < 5) if 2 <= old < 5 else now == old
        assert sorted(table[i] for i in (2, 3, 4)) == [2, 3, 4]
        assert {str(value.dtype) for value in new.values()} == {"int32", "bool"}
        seen.add((table[2], table[3], table[4]))
    assert len(seen) == 6


# ---- config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "weight"}, "norm='weight' is not known"),
        ({"answers": "all"}, "answers='all' is not known"),
        ({"dtype": "float16"}, "dtype='float16' is not known"),
        ({"features": 1}, "features=1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"log_epsilon": 0.0}, "infinitely many nats"),
        ({"square_init": -1.0}, "square_init=-1.0"),
    ],
)
def test_a_wrong_config_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(**{"norm": "layer", **changes})


def test_the_papers_config():
    config = config_file.get_config("paper")
    assert (config.features, config.batch_size, config.learning_rate) == (240, 64, 8e-5)
    assert (config.clip, config.clip_norm, config.adam) == ("reader", 10.0, "corrected")
    assert (config.dropout, config.answers, config.initial_gain) == (0.5, "vocabulary", 1.0)
    assert (config.square_init, config.identical_gates, config.recurrent_gain) == (0.05, True, 1)
    assert config.eval_steps == 1000 and config.num_steps == 800_000


def test_equal_configs_make_equal_tasks():
    assert make_task() == make_task() and hash(make_task()) == hash(make_task())
    assert make_task("none") != make_task()
