"""Skip-thoughts (paper 6.3, Fig. 3, Table 3): a sentence's vector predicts the sentences around it.

Trained on triples of sentences; scored in nats per predicted word on held-out books, and once more
with *another* sentence in the middle: what that costs is what the decoders take from the vector,
the only part that is not plain language modelling. `network` is the model, `softmax` its loss,
`triples` its batches, `encoder` what a trained network is used for, `expansion` gives it words that
it was not trained on, `suite` the sentence evaluations while it is trained.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from lnjax.cells.gru import Norm
from lnjax.data.vocabulary import Vocabulary
from lnjax.ops import lengths_to_mask
from lnjax.training.options import check_dtype, check_least
from lnjax.training.task import LossAux, TaskData, TaskDefaults
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey, PyTree
from tasks.skip_thoughts import softmax, suite
from tasks.skip_thoughts.network import DECODERS, SkipThoughts
from tasks.skip_thoughts.suite import Suite

NORMS: Mapping[str, Norm] = {"layer": "layer", "rms": "rms", "none": None}
OBJECTIVES = ("word", "batch")
LEAST = {  # keys of the config that are numbers of something
    **dict.fromkeys(("embedding_features", "max_words", "length_step", "softmax_rows"), 1),
    "features": 2,
    "vocabulary_size": 3,
}


@dataclasses.dataclass(frozen=True)
class SkipThoughtsTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `SkipThoughts` and the configs."""

    vocabulary: Vocabulary
    embedding_features: int
    features: int
    conditioned: bool
    objective: str
    probability_floor: float
    softmax_rows: int
    init_scale: float
    norm: Norm
    dtype: str
    suite: Suite | None = None
    name: str = "skip_thoughts"

    @property
    def network(self) -> SkipThoughts:
        return SkipThoughts(
            vocabulary_size=len(self.vocabulary),
            embedding_features=self.embedding_features,
            features=self.features,
            norm=self.norm,
            conditioned=self.conditioned,
            init_scale=self.init_scale,
            dtype=jnp.dtype(self.dtype),
        )

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, Any]:
        ids = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
        return self.network.init(rng, ids, ids, ids)

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """-log p, per word or of the batch; told per word. Batch: see `triples.Collate`.

        In evaluation also under the centre of another triple, with what `metrics` needs for the
        standard error of the difference.
        """
        if "sentence" in batch:  # of the suite: see `outputs`
            return jnp.zeros(()), LossAux({}, model_state)
        vectors = self._apply(params, batch["centre"], batch["centre_length"], method="encode")
        if not train:
            right = self._nats(params, vectors, batch)
            other = self._apply(params, batch["other"], batch["other_length"], method="encode")
            return self._evaluated(right, self._nats(params, other, batch), batch, model_state)
        readout, states, targets, mask = self._predictions(params, vectors, batch)
        total = softmax.total(
            readout,
            states,
            targets,
            mask,
            self.softmax_rows,
            self.probability_floor,
            jnp.dtype(self.dtype),
        )
        words = jnp.sum(mask, dtype=total.dtype)
        loss = total if self.objective == "batch" else total / jnp.maximum(words, 1)
        return loss, LossAux({"loss": (total, words)}, model_state)

    def _predictions(
        self, params: Params, vectors: Array, batch: Batch
    ) -> tuple[softmax.Readout, Array, Array, Array]:
        """What the softmax is given: states (N, H), targets and mask (N,), N = 2 T B."""
        neighbours = [(batch[name], batch[f"{name}_length"]) for name in DECODERS]
        states = self._apply(params, vectors, *neighbours, method="decode")
        targets = [jnp.swapaxes(ids, 0, 1) for ids, _ in neighbours]
        mask = [lengths_to_mask(lengths, ids.shape[1]) for ids, lengths in neighbours]
        return (
            self._apply(params, method="readout"),
            jnp.concatenate(states).reshape(-1, self.features),
            jnp.concatenate(targets).reshape(-1),
            jnp.concatenate(mask).reshape(-1),
        )

    def _nats(self, params: Params, vectors: Array, batch: Batch) -> Array:
        """Nats of both neighbours of every row (B,)."""
        readout, states, targets, mask = self._predictions(params, vectors, batch)
        nats = softmax.nats(
            readout,
            states,
            targets,
            mask,
            rows=self.softmax_rows,
            dtype=jnp.dtype(self.dtype),
        )
        return jnp.sum(nats.reshape(-1, len(vectors)), axis=0)

    def _evaluated(
        self, right: Array, wrong: Array, batch: Batch, model_state: ModelState
    ) -> tuple[Array, LossAux]:
        words = sum(batch[f"{name}_length"] for name in DECODERS).astype(right.dtype)
        total, count = jnp.sum(right), jnp.sum(words)
        gain, rows = wrong - right, jnp.sum(batch["mask"], dtype=right.dtype)
        sums = {
            "loss": (total, count),
            "nats_per_word": (total, count),
            "nats_per_word_wrong_centre": (jnp.sum(wrong), count),
            # For `metrics` alone.
            "gain_gain": (jnp.sum(gain * gain), rows),
            "gain_words": (jnp.sum(gain * words), rows),
            "words_words": (jnp.sum(words * words), rows),
        }
        return total / jnp.maximum(count, 1), LossAux(sums, model_state)

    def _apply(self, params: Params, *args: Any, method: str) -> Any:
        return self.network.apply({"params": params}, *args, method=method)

    def outputs(
        self, params: Params, model_state: ModelState, batch: Batch, rngs: Mapping[str, PRNGKey]
    ) -> PyTree:
        """The vectors (B, H) of the sentences of the suite, of length 1; nothing of triples."""
        if "sentence" not in batch:
            return {}
        lengths = batch["sentence_length"]
        both = {"with_end": lengths, "without_end": jnp.maximum(lengths - 1, 0)}
        return {
            name: _normalized(self._apply(params, batch["sentence"], length, method="encode"))
            for name, length in both.items()
        }

    def evaluate(self, pairs: Iterable[tuple[Batch, PyTree]]) -> dict[str, float]:
        """The figures of the suite, on its split; nothing on the others."""
        pairs = iter(pairs)
        first = next(pairs)
        if self.suite is None or "sentence" not in first[0]:
            return {}
        return suite.evaluate(self.suite, itertools.chain([first], pairs))

    def metrics(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Ratios; and `centre_gain`, how many nats per word the wrong centre costs, with its
        standard error over triples (that of a ratio of means, one pair of sums a triple)."""
        if "gain_gain" not in sums:
            return super().metrics(sums)
        products = {name: sums[name][0] for name in ("gain_gain", "gain_words", "words_words")}
        found = super().metrics({k: pair for k, pair in sums.items() if k not in products})
        rows, words = sums["gain_gain"][1], sums["nats_per_word"][1]
        gain = found["nats_per_word_wrong_centre"] - found["nats_per_word"]
        found["centre_gain"] = gain
        if rows > 1:
            squares = (
                products["gain_gain"]
                - 2 * gain * products["gain_words"]
                + gain**2 * products["words_words"]
            )
            variance = max(squares, 0.0) * rows / (rows - 1)
            found["centre_gain_standard_error"] = math.sqrt(variance) / words
        return found


def _normalized(vectors: Array) -> Array:
    lengths = jnp.linalg.norm(vectors.astype(jnp.float32), axis=-1, keepdims=True)
    return vectors / jnp.maximum(lengths, 1e-12)


def _suite(config: Any) -> Suite | None:
    names = tuple(filter(None, (name.strip() for name in config.sentence_tasks.split(","))))
    if not names:
        return None
    return Suite(names, config.data, config.sentence_dir, config.sentence_protocol)


def make_task(config: Any, spec: Mapping[str, Any]) -> SkipThoughtsTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    if config.norm not in NORMS:
        known = ", ".join(map(repr, NORMS))
        raise ValueError(f"norm={config.norm!r} is not known; skip_thoughts has {known}")
    check_dtype(config)
    if config.objective not in OBJECTIVES:
        raise ValueError(f"objective={config.objective!r} is not known; there are {OBJECTIVES}")
    check_least(config, LEAST)
    if not config.init_scale > 0:
        raise ValueError(f"init_scale={config.init_scale} must be positive")
    if not 0 <= config.probability_floor < 1:
        raise ValueError(f"probability_floor={config.probability_floor} must be from 0 to below 1")
    return SkipThoughtsTask(
        vocabulary=Vocabulary.from_json(spec["vocabulary"]),
        embedding_features=config.embedding_features,
        features=config.features,
        conditioned=config.conditioned,
        objective=config.objective,
        probability_floor=config.probability_floor,
        softmax_rows=config.softmax_rows,
        init_scale=config.init_scale,
        norm=NORMS[config.norm],
        dtype=config.dtype,
        suite=_suite(config),
    )


def make_data(config: Any) -> TaskData:
    """Prepares the text (once per machine), chooses its vocabulary and cuts it into batches."""
    check_dtype(config)
    # Here, not at the head: encoding with a trained network needs no data set and no reader.
    from lnjax.data import length_buckets, pipeline, preparation
    from lnjax.data.sentences import Sentences
    from tasks.skip_thoughts import triples

    prepared = preparation.prepare(Sentences, config.data, manual_dir=config.data_dir or None)
    splits, max_words = prepared.splits, config.max_words
    if config.eval_split not in splits:
        raise ValueError(f"eval_split={config.eval_split!r} is not known; there are {list(splits)}")
    vocabulary = Vocabulary.from_counts(prepared.statistics["words"], size=config.vocabulary_size)
    if len(vocabulary) < config.vocabulary_size:
        raise ValueError(
            f"vocabulary_size={config.vocabulary_size} is more than the {len(vocabulary)} ids (with"
            f" 0 and 1) that the {prepared.statistics['types']} different words of the training"
            " text give; lower it"
        )
    train = triples.find(splits["train"], max_words=max_words)
    held_out = triples.find(splits[config.eval_split], max_words=max_words)
    other = triples.others(held_out, config.seed)
    longest = max_words + 1
    edges = sorted({*range(config.length_step, longest, config.length_step), longest})
    sentences = {}
    if (suite_of_run := _suite(config)) is not None:
        size = config.eval_batch_size
        sentences[suite.SPLIT] = suite.batches(suite_of_run, vocabulary, batch_size=size)
    return TaskData(
        train=length_buckets.train_batches(
            train.length,
            edges,
            seed=config.seed,
            batch_size=config.batch_size,
            collate=triples.Collate(train, vocabulary, max_words=max_words),
            num_threads=2,
            group=config.steps_per_call,  # what is stacked must be of one length
        ),
        evals={
            "eval": length_buckets.eval_batches(
                held_out.length,
                [longest],  # one shape: compiling more takes longer than their padding
                batch_size=config.eval_batch_size,
                collate=triples.Collate(held_out, vocabulary, max_words=max_words, other=other),
            ),
            **sentences,
        },
        fingerprint={
            **pipeline.fingerprint(prepared, seed=config.seed, batch_size=config.batch_size),
            "edges": edges,
            **({"group": config.steps_per_call} if len(edges) > 1 else {}),
        },
        spec={"vocabulary": vocabulary.to_json()},
        baselines={
            "nats_per_word of the frequencies of words": triples.unigram_nats(
                prepared.statistics, vocabulary, held_out
            )
        },
    )
