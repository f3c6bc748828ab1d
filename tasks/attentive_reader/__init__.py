"""The attentive reader on questions with one entity left out (paper 6.2, Fig. 2).

Trained on the nats of the answer; scored by accuracy and error on the questions of held-out texts.
The entities of each training batch are renamed by a permutation, so that nothing but the passage
can say which of them is meant. `network` is the model, `questions` makes its batches.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnjax.data.vocabulary import FIRST_WORD
from lnjax.ops import zero_padding
from lnjax.ops.normalization import statistics_dtype
from lnjax.training.options import check_dtype
from lnjax.training.task import LossAux, TaskData, TaskDefaults
from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey
from tasks.attentive_reader.network import LSTMS, NORMS, ReaderNetwork

ANSWERS = ("passage", "vocabulary")


@dataclasses.dataclass(frozen=True)
class ReaderTask(TaskDefaults):
    """The experiment as pure functions; attributes as in `ReaderNetwork` and the configs."""

    vocabulary_size: int
    num_entities: int
    max_steps: int
    features: int
    norm: str
    answers: str
    dropout: float
    initial_gain: float
    recurrent_gain: float
    forget_offset: float
    square_init: float
    embedding_init: float
    identical_gates: bool
    identical_lstms: bool
    log_epsilon: float
    dtype: str
    name: str = "attentive_reader"
    rng_streams = ("dropout",)

    @property
    def network(self) -> ReaderNetwork:
        of_passage = self.answers == "passage"
        return ReaderNetwork(
            vocabulary_size=self.vocabulary_size,
            num_answers=self.num_entities if of_passage else self.vocabulary_size,
            features=self.features,
            norm=self.norm,
            dropout=self.dropout,
            initial_gain=self.initial_gain,
            forget_offset=self.forget_offset,
            square_init=self.square_init,
            embedding_init=self.embedding_init,
            identical_gates=self.identical_gates,
            max_steps=self.max_steps,
            dtype=jnp.dtype(self.dtype),
        )

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, Any]:
        variables = self.network.init(rng, batch, train=False)
        params: dict[str, Any] = dict(variables["params"])
        for name in LSTMS:
            cell = params[name]["cell"]
            if self.norm in ("layer", "rms"):
                gain = jnp.full_like(cell["scale_h"], self.recurrent_gain)
                params[name] = {"cell": {**cell, "scale_h": gain}}
        if self.identical_lstms:  # copied, since the train step reuses the buffers of both
            params[LSTMS[1]] = jax.tree.map(jnp.copy, params[LSTMS[0]])
        return {**variables, "params": params}

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """-log(p + log_epsilon) per question, p the answer's probability. Batch: `questions`."""
        (logits, _), new_state = self.network.apply(
            {"params": params, **model_state},
            batch,
            train=train,
            rngs=dict(rngs),
            mutable=list(model_state) if train else [],
        )
        wide = zero_padding(logits.astype(statistics_dtype(logits.dtype)), batch["mask"])
        answer = batch["answer"]
        if self.answers == "passage":
            # A row of padding names nothing; there every entity counts, and then nothing does.
            named = named_entities(batch["passage"], self.num_entities)
            named |= ~jnp.any(named, axis=1, keepdims=True)
            wide = jnp.where(named, wide, -jnp.inf)
            answer = jnp.clip(answer - FIRST_WORD, 0, self.num_entities - 1)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(wide), answer[:, None], axis=1)[:, 0]
        nats = -jnp.log(jnp.exp(log_p) + self.log_epsilon) if self.log_epsilon else -log_p
        mask = batch["mask"]
        right = mask & (jnp.argmax(wide, axis=1) == answer)
        total, number = jnp.sum(jnp.where(mask, nats, 0)), jnp.sum(mask, dtype=wide.dtype)
        accurate = jnp.sum(right, dtype=wide.dtype)
        sums = {
            "loss": (total, number),
            "accuracy": (accurate, number),
            "error": (number - accurate, number),
        }
        return total / jnp.maximum(number, 1), LossAux(sums, new_state if train else model_state)


def named_entities(passage: Array, num_entities: int) -> Array:
    """Which entities the passages (B, T) name: (B, num_entities) bool."""
    ids = FIRST_WORD + jnp.arange(num_entities)
    return jnp.any(passage[:, :, None] == ids[None, None], axis=1)


def make_task(config: Any, spec: Mapping[str, Any]) -> ReaderTask:
    """The task of a config; `spec` as in ``make_data(config).spec``."""
    check_dtype(config)
    for key, known in (("norm", NORMS), ("answers", ANSWERS)):
        if config[key] not in known:
            raise ValueError(f"{key}={config[key]!r} is not known; choose one of {known}")
    if config.features < 2:
        raise ValueError(f"features={config.features} must be at least 2")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout={config.dropout} must be at least 0 and below 1")
    for key in ("log_epsilon", "embedding_init", "square_init"):
        if not config[key] >= 0:
            raise ValueError(f"{key}={config[key]} must not be negative")
    if config.answers == "passage" and config.log_epsilon == 0:
        raise ValueError(
            "log_epsilon=0 gives an answer that its passage does not name infinitely many nats;"
            " set it to 1e-8, or answers to 'vocabulary'"
        )
    return ReaderTask(
        vocabulary_size=spec["vocabulary_size"],
        num_entities=spec["num_entities"],
        max_steps=spec["max_steps"],
        features=config.features,
        norm=config.norm,
        answers=config.answers,
        dropout=config.dropout,
        initial_gain=config.initial_gain,
        recurrent_gain=config.recurrent_gain,
        forget_offset=config.forget_offset,
        square_init=config.square_init,
        embedding_init=config.embedding_init,
        identical_gates=config.identical_gates,
        identical_lstms=config.identical_lstms,
        log_epsilon=config.log_epsilon,
        dtype=config.dtype,
    )


def make_data(config: Any) -> TaskData:
    """Prepares the questions (once per machine) and puts them into buckets of similar length."""
    check_dtype(config)
    # Here, not at the head: a trained reader needs no data set and no reader of files.
    from lnjax.data import cloze, length_buckets, pipeline, preparation
    from lnjax.data.cloze_questions import ClozeQuestions
    from tasks.attentive_reader import questions

    prepared = preparation.prepare(ClozeQuestions, config.data, manual_dir=config.data_dir or None)
    held_out = [split for split in prepared.splits if split != "train"]
    if config.eval_split not in held_out:
        raise ValueError(f"eval_split={config.eval_split!r} is not known; there are {held_out}")
    # Marks are no knowledge of a text: those of all splits are counted, so that the sizes of the
    # model do not depend on which of them is evaluated.
    counts = prepared.statistics["counts"]
    num_entities = questions.count_entities(counts, [prepared.splits[name] for name in held_out])
    vocabulary = questions.make_vocabulary(
        counts,
        num_entities,
        size=config.vocabulary_size or None,
        min_count=config.min_count,
    )
    train, held = (
        questions.encode(prepared.splits[name], vocabulary, drop_last_token=config.drop_last_token)
        for name in ("train", config.eval_split)
    )
    edges = questions.edges_for((train, held), config.length_edges)
    widths = questions.question_widths((train, held), edges)

    def collate(split: questions.Questions) -> length_buckets.Collate:
        def of_rows(rows: Sequence[int], length: int) -> dict[str, np.ndarray]:
            return questions.collate(split, rows, length, widths[length])

        return of_rows

    def renamed(
        batch: Mapping[str, np.ndarray], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        return questions.permute_entities(batch, generator, num_entities)

    fingerprint = pipeline.fingerprint(prepared, seed=config.seed, batch_size=config.batch_size)
    return TaskData(
        train=length_buckets.train_batches(
            train.passage.lengths,
            edges,
            seed=config.seed,
            batch_size=config.batch_size,
            collate=collate(train),
            group=config.steps_per_call,
            augment=renamed if config.permute_entities else None,
        ),
        evals={
            "eval": length_buckets.eval_batches(
                held.passage.lengths,
                edges,
                batch_size=config.eval_batch_size,
                collate=collate(held),
            )
        },
        fingerprint=fingerprint | {"edges": list(edges), "group": config.steps_per_call},
        spec={
            "vocabulary_size": len(vocabulary),
            "num_entities": num_entities,
            "max_steps": max(edges),
        },
        baselines={
            f"eval/accuracy of {name}": value
            for name, value in cloze.baselines(prepared.splits[config.eval_split]).items()
        },
    )
