"""Several processes that train one run: started by flags or a cluster's variables, of one mind.

Each process has its own devices and its own rows of each batch (`mesh`). The first one, process 0,
is the only one that reads and writes the run's folder (`shared`). What only one of them can know
(a signal, a refusal, what is on the disk) all are told, so that they take the same turns. A process
that is lost ends the others: see `ending_together`.

Alone, everything here is what it would be without it.
"""

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lnjax.training.checkpoint import CheckpointError
from lnjax.training.command import tell

T = TypeVar("T")


class Refused(ValueError):
    """This run cannot start, and no process of it does; the message says why."""


EXIT_LOST = 69
"""Exit code EX_UNAVAILABLE of sysexits.h: another process of the run is gone, or never came."""

START_SECONDS = 300
"""How long processes wait for each other at the start."""

HEARTBEAT_SECONDS = 30
"""A process that has not been heard of for so long is gone; a dead one is mostly noticed at once,
because its connections close."""

_SHUTDOWN_SECONDS = 60
_PIECE = 1 << 26  # bytes sent at once
_ERRORS = {kind.__name__: kind for kind in (CheckpointError, ValueError, OSError)}


# ---- start and end


def start(processes: str, process_id: int | None, coordinator: str | None) -> None:
    """Joins the other processes of the run; must come before anything that asks for devices.

    Args:
      processes: "1", alone; their number; or "auto", what Slurm, Open MPI or a cloud TPU says.
      process_id: of a number of processes, which this is, from 0.
      coordinator: host:port of process 0, with a port that is free there.

    Raises:
      Refused: values that do not go together; no such environment was found for "auto".
    """
    number = None if processes == "auto" else _number(processes)
    if number is None or number == 1:
        if process_id is not None or coordinator is not None:
            raise Refused(
                f"--process_id and --coordinator are for a number of processes, and --processes is"
                f" {processes}"
            )
        if number == 1:
            return
        arguments: dict[str, Any] = {}
        waiting = "joining the processes that the cluster's variables tell of"
    else:
        if process_id is None or coordinator is None:
            raise Refused(f"--processes={number} needs --process_id and --coordinator=host:port")
        if not 0 <= process_id < number:
            raise Refused(f"--process_id={process_id} must be from 0 to {number - 1}")
        if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
            raise Refused(f"--coordinator={coordinator} is not host:port")
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": number,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
        waiting = f"process {process_id} of {number}: joining the others at {coordinator}"
    tell(f"{waiting}, for at most {START_SECONDS} s")

    def nobody_came() -> None:
        tell(f"error: not all processes came within {START_SECONDS} s; start each with the same")
        tell("--processes and --coordinator, and see whether a firewall closes the port")
        os._exit(EXIT_LOST)

    # jax's handler of SIGTERM would swallow one that comes before `Interrupt` is there.
    jax.config.update("jax_enable_preemption_service", False)
    # jax itself would abort with a trace of its stack.
    timer = threading.Timer(START_SECONDS, nobody_came)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=START_SECONDS + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        what = " ".join(str(error).split())
        if number is None and "should be defined" in what:
            what = "there are no variables of Slurm, Open MPI, Kubernetes or a cloud TPU"
        raise Refused(f"--processes={processes}: {what}") from error
    finally:
        timer.cancel()


def _number(processes: str) -> int:
    if not processes.isdecimal() or int(processes) < 1:
        raise Refused(f"--processes={processes} is neither a number from 1 on nor 'auto'")
    return int(processes)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """All processes come to the end of this together, or none waits for those that do not.

    Alone it does nothing. One of several ends with EXIT_LOST if another one is gone, and with 1 and
    a traceback after an error that the others know nothing of; they then find it gone.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        # At the usual end of Python jax would wait for the others.
        if _may_be_a_loss(error):
            tell(f"error: another process is gone, or an operation failed: {_first_line(error)}")
            tell("the same commands, or fewer processes, go on from the newest checkpoint")
            os._exit(EXIT_LOST)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    if jax.distributed.is_initialized():
        # What was to be done is done; one that is gone now is no loss.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.distributed.shutdown()


def _may_be_a_loss(error: BaseException) -> bool:
    """Whether XLA says so. Where a call returns already failed, jaxlib makes it a ValueError."""
    if isinstance(error, ValueError):
        return str(error).startswith(("UNKNOWN: ", "UNAVAILABLE: ", "INTERNAL: ", "ABORTED: "))
    return isinstance(error, jax.errors.JaxRuntimeError)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's folder."""
    return jax.process_index() == 0


def tell_once(line: str) -> None:
    """`command.tell` by the first process."""
    if is_first():
        tell(line)


# ---- of one mind


class Agreement:
    """Whether any process says yes, asked by all at the same step and told to all alike.

    The answer comes some steps late, so that no process waits for the device of another: it is
    that to the question of `late` calls before. Alone: what was asked, at once.
    """

    def __init__(self, late: int = 2):
        self._late = late
        self._pending: list[jax.Array] = []
        if jax.process_count() > 1:
            mesh = Mesh(np.asarray(jax.devices()), ("device",))
            self._each = NamedSharding(mesh, PartitionSpec("device"))
            self._any = jax.jit(
                lambda said: said.any(), out_shardings=NamedSharding(mesh, PartitionSpec())
            )

    def __call__(self, yes: bool) -> bool:
        if jax.process_count() == 1:
            return yes
        mine = np.full(jax.local_device_count(), yes)
        self._pending.append(self._any(jax.make_array_from_process_local_data(self._each, mine)))
        return len(self._pending) > self._late and bool(self._pending.pop(0))


def all_or_none(make: Callable[[], T], alike: Callable[[T], object]) -> T:
    """What `make` gives in each process, if it gives something in all of them.

    Args:
      make: called by each process.
      alike: what must be the same in all, JSON; a dict is compared key by key.

    Raises:
      Refused: in all processes: `make` raised a ValueError in one of them; they are not alike.
    """
    made, error, record = None, None, {}
    try:
        made = make()
        record = {"alike": alike(made)}
    except ValueError as problem:
        error = problem
        record = {"error": str(problem)}
    found = [record]
    if jax.process_count() > 1:
        found = [json.loads(text) for text in _gather(json.dumps(record).encode())]
    if error is not None:
        raise Refused(str(error)) from error
    for process, other in enumerate(found):
        if "error" in other:
            raise Refused(f"process {process} cannot start: {other['error']}")
        if changes := _changes(found[0]["alike"], other["alike"]):
            raise Refused(f"process {process} has another {changes} than process 0")
    assert made is not None
    return made


def _changes(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
        pairs = [f"{key} ({other.get(key)!r}, not {one.get(key)!r})" for key in keys]
        return ", ".join(pairs)
    return "" if one == other else f"start ({other!r}, not {one!r})"


def from_first(make: Callable[[], T]) -> T:
    """What `make`, called by process 0 alone, gives, JSON; or the error that it raises, in all."""
    if jax.process_count() == 1:
        return make()
    answer: dict[str, Any] = {}
    error = None
    if is_first():
        try:
            answer = {"value": make()}
        except Exception as problem:
            error = problem
            answer = {"error": type(problem).__name__, "text": str(problem)}
    text = json.dumps(answer).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    answer = json.loads(bytes_from_first(text, size))
    if error is not None:
        raise error
    if "error" in answer:
        raise _ERRORS.get(answer["error"], RuntimeError)(answer["text"])
    return answer["value"]


def bytes_from_first(content: bytes | None, size: int) -> bytes:
    """The `size` bytes that process 0 has, in all processes; the others may give None."""
    mine = np.zeros(size, np.uint8)
    if is_first() and content is not None:
        mine = np.frombuffer(content, np.uint8)
    # In pieces, which pass through the memory of every device.
    pieces = [
        multihost_utils.broadcast_one_to_all(mine[start : start + _PIECE]).astype(np.uint8)
        for start in range(0, size, _PIECE)
    ]
    return b"".join(piece.tobytes() for piece in pieces)


def _gather(content: bytes) -> list[bytes]:
    """What each process gives, by its number."""
    sizes = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes.tolist(), strict=True)]
