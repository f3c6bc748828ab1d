"""What an experiment is to the train loop: a Task (pure functions) and its TaskData (batches).

A task is a frozen dataclass of plain values, so that jit can hold it static: two equal tasks share
one compilation. `tasks/x.py` exports ``make_data(config) -> TaskData`` and ``make_task(config,
spec) -> Task``, where `spec` is what the model must know of the data (offset scale, vocabulary); it
is saved with every checkpoint, so that a trained model can be used where the data are not. A task
that samples also exports ``draw_samples(path, samples, title=)``, which makes a PNG of them.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from lnjax.typing import Array, Batch, ModelState, Params, PRNGKey, PyTree, Sums


class LossAux(NamedTuple):
    """What a loss returns beside itself."""

    sums: Sums  # name -> (numerator, denominator); "loss" is one of them
    model_state: ModelState  # of the same tree as the one passed in


class Task(Protocol):
    """One experiment. Everything but `metrics` and `evaluate` is pure and may be traced."""

    @property
    def name(self) -> str: ...

    @property
    def rng_streams(self) -> tuple[str, ...]:
        """Names of the random streams that `loss` and `outputs` receive."""
        ...

    def init(self, rng: PRNGKey, batch: Batch) -> Mapping[str, PyTree]:
        """Flax variables: "params" and any other collections."""
        ...

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        rngs: Mapping[str, PRNGKey],
        *,
        train: bool,
    ) -> tuple[Array, LossAux]:
        """The scalar that is differentiated, the sums, and the new model state."""
        ...

    def metrics(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """On the host: ratios of the added sums, and what derives from them."""
        ...

    def outputs(
        self, params: Params, model_state: ModelState, batch: Batch, rngs: Mapping[str, PRNGKey]
    ) -> PyTree:
        """What `evaluate` needs of each batch (embeddings, logits); {} if nothing."""
        ...

    def evaluate(self, pairs: Iterable[tuple[Batch, PyTree]]) -> dict[str, float]:
        """On the host: metrics that need the whole split at once; {} if none."""
        ...

    def sample(
        self, params: Params, model_state: ModelState, rng: PRNGKey, num: int
    ) -> PyTree | None:
        """`num` samples to look at, or None."""
        ...


class TaskDefaults:
    """The members that many tasks do not need; a task inherits these and overrides what it has."""

    rng_streams: tuple[str, ...] = ()

    def metrics(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        return {name: numerator / denominator for name, (numerator, denominator) in sums.items()}

    def outputs(
        self, params: Params, model_state: ModelState, batch: Batch, rngs: Mapping[str, PRNGKey]
    ) -> PyTree:
        return {}

    def evaluate(self, pairs: Iterable[tuple[Batch, PyTree]]) -> dict[str, float]:
        return {}

    def sample(
        self, params: Params, model_state: ModelState, rng: PRNGKey, num: int
    ) -> PyTree | None:
        return None


class TrainBatches(Iterator[Mapping[str, Any]], Protocol):
    """An endless stream of batches whose position is a small JSON object."""

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def records(self, state: dict[str, Any]) -> list[int]:
        """Which training records the next batch at a position has, by number, one for each row."""
        ...


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The data of one run.

    Attributes:
      train: endless shuffled batches.
      evals: split name -> batches that can be iterated again and again; every example once.
      fingerprint: what the order of the training batches depends on, JSON. A checkpoint is resumed
        only with the same one.
      spec: what the model must know of the data, JSON.
      baselines: what a trivial predictor reaches on the same data, told beside the metrics:
        "nats_per_point of one Gaussian" -> value.
    """

    train: TrainBatches
    evals: Mapping[str, Iterable[Mapping[str, Any]]]
    fingerprint: Mapping[str, Any]
    spec: Mapping[str, Any]
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
