"""Where arrays lie. One mesh axis, "data": parameters on every device, batches cut by rows."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lnjax.typing import Batch, PyTree


def make_mesh(data: int) -> Mesh:
    """A mesh of `data` devices.

    Raises:
      ValueError: there are fewer devices.
    """
    devices = jax.devices()
    if not 1 <= data <= len(devices):
        raise ValueError(
            f"mesh.data={data}, but this machine has {len(devices)} device(s) of kind"
            f" {devices[0].platform}; set --config.mesh.data to a number from 1 to {len(devices)}"
        )
    return Mesh(np.asarray(devices[:data]), ("data",))


def check_batch_size(key: str, batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch, given by the config's `key`, that the devices cannot share evenly."""
    if batch_size % mesh.size:
        raise ValueError(
            f"{key}={batch_size} is not a multiple of mesh.data={mesh.size};"
            f" set --config.{key} to one"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Any, mesh: Mesh, *, stacked: bool = False) -> Batch:
    """Puts host arrays on the mesh, cut over their first axis; `stacked`: over their second."""
    spec = PartitionSpec(None, "data") if stacked else PartitionSpec("data")
    return jax.device_put(dict(batch), NamedSharding(mesh, spec))


def place_state(state: PyTree, mesh: Mesh) -> PyTree:
    """Puts a tree whole on every device of the mesh."""
    return jax.device_put(state, replicated(mesh))
