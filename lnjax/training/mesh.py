"""Where arrays lie: a mesh of devices with two axes, "data" and "model".

Batches are cut by rows over "data". The state lies whole on every device, but for the parameters
that `mesh.shard` names and their moments, which are cut over "model". With several processes the
mesh has as many devices of each, and a process holds, and makes, only its own rows.
"""

import fnmatch
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lnjax.training.state import TrainState, init_state
from lnjax.training.task import Task
from lnjax.typing import Batch, PRNGKey, PyTree


def make_mesh(data: int, model: int = 1) -> Mesh:
    """A mesh of `data` times `model` devices, as many of each process.

    Raises:
      ValueError: there are fewer devices, or they cannot be divided like that.
    """
    # jax lists the devices in an order of its own; one process's shall be neighbours.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    processes = jax.process_count()
    number = data * model
    sizes = f"mesh.data={data}" + (f" times mesh.model={model}" if model != 1 else "")
    if data < 1 or model < 1 or number > len(devices):
        where = "this machine has" if processes == 1 else f"these {processes} processes have"
        raise ValueError(
            f"{sizes}, but {where} {len(devices)} device(s) of kind {devices[0].platform}; set"
            f" --config.mesh.data to a number from 1 to {max(len(devices) // max(model, 1), 1)}"
        )
    each, rest = divmod(number, processes)
    if rest or (each % model and model % each):
        raise ValueError(
            f"{sizes} cannot be divided among {processes} processes; every process has as many"
            f" devices, at most {len(devices) // processes}, and mesh.model is a divisor or a"
            f" multiple of that: set --config.mesh.data to {len(devices) // max(model, 1)} for all"
        )
    local = len(devices) // processes
    chosen = [devices[process * local + i] for process in range(processes) for i in range(each)]
    return Mesh(np.asarray(chosen).reshape(data, model), ("data", "model"))


def check_batch_size(key: str, batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch, given by the config's `key`, that the devices cannot share evenly."""
    if batch_size % mesh.shape["data"]:
        raise ValueError(
            f"{key}={batch_size} is not a multiple of mesh.data={mesh.shape['data']};"
            f" set --config.{key} to one"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


# ---- batches


def own_rows(batch_size: int, mesh: Mesh) -> range:
    """The rows of each batch that the devices of this process hold."""
    parts = _own_parts(mesh)
    size = batch_size // mesh.shape["data"]
    return range(parts.start * size, parts.stop * size)


def place_batch(batch: Any, mesh: Mesh, *, stacked: bool = False) -> Batch:
    """Puts host arrays on the mesh, cut over their first axis; `stacked`: over their second.

    With several processes each gives its own rows, see `own_rows`, of arrays that have all.
    """
    spec = PartitionSpec(None, "data") if stacked else PartitionSpec("data")
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    axis, times = int(stacked), mesh.shape["data"] // len(_own_parts(mesh))

    def place(leaf: np.ndarray) -> jax.Array:
        shape = (*leaf.shape[:axis], leaf.shape[axis] * times, *leaf.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return {name: place(np.asarray(leaf)) for name, leaf in dict(batch).items()}


def _own_parts(mesh: Mesh) -> range:
    """Which of the parts that "data" cuts a batch into are of this process."""
    mine = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    parts = np.flatnonzero(np.reshape(mine, mesh.devices.shape).any(axis=1))
    return range(int(parts[0]), int(parts[-1]) + 1)


# ---- the state


def parse_rule(rule: str) -> dict[str, int]:
    """`mesh.shard`: "embedding:0,*/kernel:1" -> {"embedding": 0, "*/kernel": 1}.

    Raises:
      ValueError: it is not of that form.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in rule.split(","))):
        pattern, colon, axis = part.rpartition(":")
        if not colon or not pattern or not axis.isdecimal() or pattern in found:
            raise ValueError(
                f"mesh.shard={rule!r}: {part!r} is not pattern:dimension, each pattern once; as in"
                " 'embedding:0,kernel:1'"
            )
        found[pattern] = int(axis)
    return found


def state_shardings(state: PyTree, mesh: Mesh, rule: str = "") -> PyTree:
    """The sharding of each leaf of a `TrainState`.

    Args:
      state: of arrays or `jax.ShapeDtypeStruct`.
      rule: `mesh.shard`, patterns as of `fnmatch` (in which * is any text, slashes too) for whole
        paths of parameters such as `encoder/cell/kernel`, each with the dimension that is cut over
        "model". What of the optimizer's state has the path and the shape of a parameter, as its
        moments have, is cut like it.

    Raises:
      ValueError: a pattern matches no parameter; a parameter has no such dimension, one that
        `mesh.model` does not divide, or is matched with two; mesh.model is more than 1 for nothing.
    """
    model = mesh.shape["model"]
    parsed = parse_rule(rule)
    if model > 1 and not parsed:
        raise ValueError(
            f"mesh.model={model}, but mesh.shard is empty: the devices would do the same work; name"
            " the parameters to cut, as in --config.mesh.shard=embedding:0"
        )
    shapes = {_name(path): leaf.shape for path, leaf in _leaves(state.params)}
    axes: dict[str, int] = {}
    for pattern, axis in parsed.items():
        matched = [name for name in shapes if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(
                f"mesh.shard: {pattern!r} matches no parameter; there are {', '.join(shapes)}"
            )
        for name in matched:
            shape = shapes[name]
            problem = None
            if axes.setdefault(name, axis) != axis:
                problem = f"is matched with dimension {axes[name]} too"
            elif axis >= len(shape):
                problem = f"has {len(shape)} dimension(s), counted from 0"
            elif shape[axis] % model:
                problem = f"has {shape[axis]} there, no multiple of mesh.model={model}"
            if problem:
                raise ValueError(f"mesh.shard: {pattern}:{axis}: {name} {problem}")

    def where(path: Any, leaf: Any) -> NamedSharding:
        parts = _name(path).split("/")
        # The longest end of the path that is a parameter: `0/mu/encoder/kernel` is not `kernel`.
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        name = next((end for end in ends if end in shapes), None)
        if name not in axes or leaf.shape != shapes[name]:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axes[name], "model"))

    whole = jax.tree.map(lambda _: replicated(mesh), state)
    return whole.replace(
        params=jax.tree_util.tree_map_with_path(where, state.params),
        opt_state=jax.tree_util.tree_map_with_path(where, state.opt_state),
    )


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def plan_state(
    batch: Mapping[str, Any],
    *,
    task: Task,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rule: str = "",
) -> TrainState:
    """What `make_state` will make, as shardings; computes nothing. Raises: see `state_shardings`.

    Args:
      batch: host arrays, of any number of rows.
    """
    shapes = jax.eval_shape(
        partial(init_state, task=task, tx=tx), jax.eval_shape(lambda: jax.random.key(0)), batch
    )
    return state_shardings(shapes, mesh, rule)


def make_state(
    rng: PRNGKey,
    batch: Batch,
    *,
    task: Task,
    tx: optax.GradientTransformation,
    plan: TrainState,
) -> TrainState:
    """The state at step 0, made where `plan` has it: no device holds more than its part."""
    made = jax.jit(partial(init_state, task=task, tx=tx), out_shardings=plan)
    return made(rng, batch)


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Puts a tree whole on every device of the mesh; with several processes, one of host arrays."""
    if jax.process_count() == 1:
        return jax.device_put(state, replicated(mesh))
    return place_like(state, jax.tree.map(lambda _: replicated(mesh), state))


def place_like(tree: PyTree, shardings: PyTree) -> PyTree:
    """Puts host arrays, the same in all processes, where `shardings` has them."""
    return jax.tree.map(
        lambda leaf, where: jax.make_array_from_callback(leaf.shape, where, leaf.__getitem__),
        tree,
        shardings,
    )


def on_host(tree: PyTree) -> PyTree:
    """Whole NumPy copies of arrays, wherever their parts lie. All processes call it together."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if leaf.is_fully_replicated:
            return np.array(leaf.addressable_data(0))
        if leaf.is_fully_addressable:
            return np.array(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(copy, tree)
