"""Makes of a good run what a stranger could send; each function changes the folder of a copy.

What would be executed creates a file named `executed` in the working folder.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lnjax.training import manifest

RUNS = "touch executed"
STEP = "60"


class Evil:
    """A pickle of this runs a command."""

    def __reduce__(self):
        return os.system, (RUNS,)


class Case(NamedTuple):
    """One folder.

    Attributes:
        change: makes it hostile.
        told: words of the error; None where the run is to be used as if nothing were there.
    """

    change: Callable[[Path], object]
    told: tuple[str, ...] | None


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda old: {**old, **changes})


def data(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "data.json", lambda old: {**old, **changes})


def batch(**changes: Any) -> Callable[[Path], None]:
    def change(old: dict) -> dict:
        return {**old, "batch": {**old["batch"], **changes}}

    return lambda folder: edit(folder / "data.json", change)


def signed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Changes the newest step, of which nothing else is left, and writes its sums anew."""

    def whole(folder: Path) -> None:
        for path in (folder / "checkpoints").iterdir():
            if path.name.partition(".")[0] != STEP:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        step = folder / "checkpoints" / STEP
        change(step)
        manifest.write_sums(step, step.with_name(f"{STEP}.sha256"), STEP)

    return whole


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return signed(lambda step: edit(step / name, change))


def every_value(**changes: Any) -> Callable[[Any], Any]:
    """Changes what the metadata say of each array."""

    def change(found: dict) -> dict:
        for entry in found["tree_metadata"].values():
            entry["value_metadata"].update(changes)
        return found

    return change


def task_beside(folder: Path) -> None:
    """A module of the name that the config asks for, in the folder of the run."""
    (folder / "evil.py").write_text(f"import os\nos.system({RUNS!r})\n")
    config(task="evil")(folder)


def linked_file(folder: Path) -> None:
    signed(lambda step: None)(folder)
    path = max(
        (path for path in (folder / "checkpoints" / STEP).rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    outside = folder.with_name(f"{folder.name}-outside")
    shutil.move(path, outside)
    path.symlink_to(outside)


def linked_folder(folder: Path) -> None:
    signed(lambda step: None)(folder)
    state = folder / "checkpoints" / STEP / "state"
    outside = folder.with_name(f"{folder.name}-outside")
    shutil.move(state, outside)
    state.symlink_to(outside, target_is_directory=True)


def replaced_by(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def unpacked_arrays(step: Path) -> None:
    """Not in a database of tensorstore but as files of zarr, whose metadata name other places."""
    edit(step / "state/_METADATA", lambda found: {**found, "use_ocdbt": False})
    found = json.loads((step / "state/_METADATA").read_text())["tree_metadata"]
    remote = {"driver": "http", "base_url": "http://127.0.0.1:1", "path": "/x"}
    for entry in found.values():
        name = ".".join(key["key"] for key in entry["key_metadata"])
        shape = entry["value_metadata"].get("write_shape", [])
        array = {"zarr_format": 2, "shape": shape, "chunks": [1 << 40 for _ in shape]}
        array |= {"dtype": "<f4", "compressor": None, "fill_value": None, "filters": None}
        array |= {"order": "C", "dimension_separator": ".", "kvstore": remote, "driver": "zarr"}
        (step / "state" / name).mkdir()
        (step / "state" / name / ".zarray").write_text(json.dumps(array))


def out_of_the_folder(step: Path) -> None:
    """A database whose index says that its data lie beside the run."""
    import struct

    import tensorstore

    inside, state = step / "state" / "d", step / "state"
    shutil.rmtree(inside)
    for path in state.glob("ocdbt.*"):
        shutil.rmtree(path)
    (state / "manifest.ocdbt").unlink()
    spec = {
        "driver": "ocdbt",
        "base": f"file://{state}/",
        "config": {"compression": None, "max_inline_value_bytes": 0},
        "value_data_prefix": "aa/secret/",
    }
    store = tensorstore.KvStore.open(spec).result()
    for entry in json.loads((state / "_METADATA").read_text())["tree_metadata"].values():
        name = ".".join(key["key"] for key in entry["key_metadata"])
        store.write(f"{name}/.zarray", b"a secret of the user" * 20).result()
    shutil.move(state / "aa/secret", step / "secret")
    shutil.rmtree(state / "aa")
    for path in state.rglob("*"):
        if path.is_file() and b"aa/secret/" in (content := path.read_bytes()):
            content = content[:-4].replace(b"aa/secret/", b"../secret/")
            path.write_bytes(content + struct.pack("<I", crc32c(content)))


def crc32c(content: bytes) -> int:
    rest = 0xFFFFFFFF
    for byte in content:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (0x82F63B78 * (rest & 1))
    return rest ^ 0xFFFFFFFF


def pickles_everywhere(step: Path) -> None:
    for name in ("state/arrays.pkl", "state/d/evil", "info/evil.pkl", "__init__.py"):
        (step / name).write_bytes(pickle.dumps(Evil()))
    (step / "sitecustomize.py").write_text(f"import os\nos.system({RUNS!r})\n")


REDUCED = {"__reduce__": ["os.system", [RUNS]], "py/object": "os.system", "!!python": RUNS}

CASES: Mapping[str, Case] = {
    "task os": Case(config(task="os"), ("os",)),
    "task beside": Case(task_beside, ("evil",)),
    "task in another folder": Case(config(task="../handwriting"), ("../handwriting",)),
    "task that is a list": Case(config(task=["handwriting"]), ("config.json", "task")),
    "config of nothing": Case(
        lambda folder: (folder / "config.json").write_text('{"task": "handwriting"}'),
        ("config.json",),
    ),
    "config that is a list": Case(
        lambda folder: (folder / "config.json").write_text("[]"), ("config.json",)
    ),
    "config, nested deeply": Case(
        lambda folder: (folder / "config.json").write_text('{"a":' * 100_000), ("config.json",)
    ),
    "config from a device": Case(
        replaced_by("config.json", lambda path: path.symlink_to("/dev/zero")), ("config.json",)
    ),
    "config from a pipe": Case(replaced_by("config.json", os.mkfifo), ("config.json",)),
    "config with objects": Case(config(norm=REDUCED, mesh=REDUCED), ("config.json",)),
    "config that is huge": Case(config(features=1 << 16), (STEP, "has other leaves")),
    "config with an escape": Case(
        config(task="\x1b[2J\x9b31m\r\ndone: all is well"), ("\\x1b[2J",)
    ),
    "another optimizer": Case(config(clip="os.system"), ("os.system",)),
    "dtype of an object": Case(batch(strokes=[[2, 2, 3], "O"]), ("data.json", "O")),
    "dtype that calls": Case(
        batch(strokes=[[2, 2, 3], f"__import__('os').system('{RUNS}')"]), ("data.json",)
    ),
    "batch of a huge shape": Case(batch(strokes=[[10**12, 10**12, 3], "float32"]), ("data.json",)),
    "no batch": Case(data(batch=None), ("data.json",)),
    "spec that is a text": Case(data(spec="os.system"), ("data.json",)),
    "another spec": Case(
        lambda folder: edit(
            folder / "data.json",
            lambda old: {**old, "spec": {**old["spec"], "offset_std": [1e30, 1e30]}},
        ),
        ("data.json", "spec"),
    ),
    "linked file": Case(linked_file, (f"{STEP}/", "link")),
    "linked folder": Case(linked_folder, (f"{STEP}/state", "link")),
    "handlers of another name": Case(
        edited(
            "_CHECKPOINT_METADATA",
            lambda found: {**found, "item_handlers": {"state": "os.system", "info": "os.system"}},
        ),
        None,
    ),
    "objects in the metadata": Case(
        edited("_CHECKPOINT_METADATA", lambda found: {**found, "custom_metadata": REDUCED}), None
    ),
    "objects in the arrays' metadata": Case(
        edited("state/_METADATA", lambda found: {**found, "custom_metadata": REDUCED}), None
    ),
    "values of another type": Case(
        edited("state/_METADATA", every_value(value_type="os.system")), None
    ),
    "values that are none": Case(
        edited("state/_METADATA", every_value(value_type="None", skip_deserialize=True)), (STEP,)
    ),
    "values that are dictionaries": Case(
        edited("state/_METADATA", every_value(value_type="Dict", skip_deserialize=True)), (STEP,)
    ),
    "values that are named tuples": Case(
        edited(
            "state/_METADATA",
            lambda found: {
                **found,
                "value_metadata_tree": {"module_name": "os", "class_name": "system", "entries": []},
            },
        ),
        None,
    ),
    "arrays of a huge shape": Case(
        edited("state/_METADATA", every_value(write_shape=[10**12, 10**12])), None
    ),
    "arrays under names of files": Case(
        edited(
            "state/_METADATA",
            lambda found: {
                **found,
                "tree_metadata": {
                    "('../../../etc/passwd',)": {
                        "key_metadata": [{"key": "../../../etc/passwd", "key_type": 2}],
                        "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
                    }
                },
            },
        ),
        (STEP,),
    ),
    "no leaves": Case(edited("info/metadata", lambda found: {"info": found["info"]}), (STEP,)),
    "info that is a list": Case(edited("info/metadata", lambda found: [found]), (STEP,)),
    "arrays from elsewhere": Case(signed(unpacked_arrays), (STEP, "no checkpoint of lnjax")),
    "database from elsewhere": Case(signed(out_of_the_folder), (STEP, "no checkpoint of lnjax")),
    "pickles everywhere": Case(signed(pickles_everywhere), None),
    "a name out of the folder in the sums": Case(
        lambda folder: (folder / "checkpoints" / f"{STEP}.sha256").write_text(
            f"{'0' * 64}  {STEP}/../../../../etc/passwd\n"
        ),
        None,  # an older step is good
    ),
    "a step of another kind": Case(
        lambda folder: (folder / "checkpoints" / ("9" * 200)).write_text("x"), None
    ),
}
