"""Every reader of files, each on a small set in the true form, for `reader_fuzz`.

A case writes its files below a folder and returns how they are read. What is read comes back as
`Read`: the content itself, and the digest by which a resumed run would know it from another
(`Prepared.digest`, rebuilt here from the records), None where there is none.
"""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lnjax.data import (
    DataError,
    books,
    cifar_binary,
    mnist_idx,
    polarity,
    preparation,
    records,
    sick,
    source_files,
    word_vectors,
)


class Read(NamedTuple):
    """What a reader made of its files."""

    content: Any
    digest: str | None = None


class Reader(NamedTuple):
    """How the files of a case are read.

    Attributes:
        read: reads all of them.
        files: those that are damaged.
        errors: the one documented error.
        pinned: the set exists in one version: other content is never accepted.
        reset: called before each mutation, to undo what reading has written.
    """

    read: Callable[[], Read]
    files: Sequence[Path]
    errors: type[Exception] = DataError
    pinned: bool = False
    reset: Callable[[], None] = lambda: None


Case = Callable[[Path, pytest.MonkeyPatch], Reader]


def of_source(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Read:
    """The records of all splits, with the digest that `prepare` would give them."""
    found_in = {
        split: [
            {k: v if isinstance(v, str) else np.asarray(v) for k, v in record.items()}
            for record in examples
        ]
        for split, examples in splits.items()
    }
    digests = {split: records.digest_of(found) for split, found in sorted(found_in.items())}
    digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return Read(found_in, digest)


def of_builder(name: str, folder: Path) -> Callable[[], Read]:
    def read() -> Read:
        builder = _builder(name)
        assert builder.source_key("real", folder)
        return of_source(builder.read_source("real", folder))

    return read


def _builder(name: str) -> Any:
    from lnjax.data.__main__ import BUILDERS

    return BUILDERS[name]


def below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------ published sets


def iam_tree(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.conftest import IamTree

    IamTree(folder / "iam", original="original")
    return Reader(of_builder("handwriting", folder), below(folder))


def amat_text(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.image_files import AmatFolder

    AmatFolder(folder, patch)
    return Reader(of_builder("binarized_mnist", folder), below(folder), pinned=True)


def idx_plain(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.image_files import IdxFolder

    IdxFolder(folder, patch)
    return Reader(of_builder("digits", folder), below(folder), pinned=True)


def idx_packed(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.image_files import IdxFolder

    files = IdxFolder(folder, patch)
    for part in mnist_idx.FILES:
        files.pack(*part)
    return Reader(of_builder("digits", folder), below(folder), pinned=True)


def cifar_files(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.image_files import CifarFolder

    CifarFolder(folder, patch)
    return Reader(of_builder("cifar10", folder), below(folder))


def cifar_archive(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.image_files import CifarFolder

    CifarFolder(folder, patch).archive()
    return Reader(of_builder("cifar10", folder), [folder / cifar_binary.ARCHIVE])


def coco_text_and_features(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.coco_folder import CocoFolder

    CocoFolder(folder)
    return Reader(of_builder("captioned_images", folder), below(folder))


def karpathy_json(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.coco_folder import CocoFolder

    files = CocoFolder(folder)
    path = files.write_json()
    for split in files.captions:
        files.text(split).unlink()
    return Reader(of_builder("captioned_images", folder), [path])


def cnn_text(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.test_cnn_questions import Questions

    Questions(folder)
    return Reader(of_builder("cloze_questions", folder), below(folder))


def cnn_pickled(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.test_cnn_questions import PICKLES

    for protocol, name in enumerate(PICKLES):
        content = pickle.dumps(PICKLES[name], protocol=protocol % 3)
        (folder / f"{name}.pkl").write_bytes(content)
    return Reader(of_builder("cloze_questions", folder), below(folder))


def book_lines(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    for number, name in enumerate(books.FILES):
        lines = [f"sentence {i} of book {number} , said he .\n" for i in range(60)]
        (folder / name).write_text("".join(lines))
    return Reader(of_builder("sentences", folder), below(folder))


def sentence_sets(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.sentence_files import SentevalFolder

    SentevalFolder(folder / "senteval", patch)
    return Reader(of_builder("senteval", folder), below(folder))


def sick_alone(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.sentence_files import TWELVE, SentevalFolder

    files = SentevalFolder(folder / "senteval", patch, columns=TWELVE)
    paths = {split: files.path("sick", split) for split in sick.FILES}
    return Reader(lambda: Read(sick.read(paths)), list(paths.values()))


def polarity_alone(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.sentence_files import SentevalFolder

    files = SentevalFolder(folder / "senteval", patch)
    paths = {label: files.path("cr", label) for label in polarity.CLASSES}
    return Reader(lambda: Read(polarity.read("cr", paths)), list(paths.values()))


def vectors_as_text(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.test_word_vectors import text

    path = folder / "vectors.txt"
    path.write_bytes(text())
    return Reader(lambda: Read(tuple(word_vectors.read(path))), [path])


def vectors_as_binary(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from tests.data.test_word_vectors import binary

    path = folder / "vectors.bin"
    path.write_bytes(binary())
    return Reader(lambda: Read(tuple(word_vectors.read(path))), [path])


# ------------------------------------------------------------------ what the project writes itself


def _toy(in_memory: bool) -> Any:
    from tests.data import toy_numbers

    toy_numbers.ToyNumbers.IN_MEMORY = in_memory
    return toy_numbers.ToyNumbers


def _prepared(folder: Path, *, in_memory: bool) -> Reader:
    builder = _toy(in_memory)
    preparation.prepare(builder, "embedded", cache=folder)
    original = folder.with_name("original")
    shutil.copytree(folder, original)

    def read() -> Read:
        prepared = preparation.prepare(builder, "embedded", cache=folder)
        splits = {split: list(records) for split, records in prepared.splits.items()}
        return Read([splits, dict(prepared.statistics)], prepared.digest)

    def reset() -> None:
        shutil.rmtree(folder)
        shutil.copytree(original, folder)

    (place,) = folder.glob("toy_numbers/embedded/1.0.0")
    return Reader(read, below(place), reset=reset)


def prepared_in_memory(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    return _prepared(folder, in_memory=True)


def prepared_on_disk(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    return _prepared(folder, in_memory=False)


CONFIG = {"task": "pi_mnist", "norm": "layer", "learning_rate": 1e-3, "mesh": {"data": 1}}
DATA = {
    "spec": {"words": ["a", "b", "caf\u00e9"], "scale": [0.5, 2.0], "num_classes": 10},
    "batch": {"image": [[4, 28, 28, 1], "uint8"], "mask": [[4], "bool"]},
}


def run_description(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    from lnjax.data.vocabulary import Vocabulary
    from lnjax.training import manifest, workdir

    manifest.write_json(folder / "config.json", CONFIG)
    manifest.write_json(folder / "data.json", DATA)

    def read() -> Read:
        found = workdir.read(folder)
        batch = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in found.batch.items()}
        return Read([found.config, found.spec, batch])

    del Vocabulary
    return Reader(read, below(folder), errors=ValueError)


def vocabulary_of_a_run(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    """The words in data.json, as a task makes its vocabulary of them."""
    from lnjax.data.vocabulary import Vocabulary
    from lnjax.training import manifest, workdir

    words = [f"word{number}" for number in range(200)]
    manifest.write_json(folder / "config.json", CONFIG)
    manifest.write_json(folder / "data.json", DATA | {"spec": {"words": words}})

    def read() -> Read:
        spec = workdir.read(folder).spec
        try:
            return Read(Vocabulary.from_json(spec.get("words")).words)
        except ValueError as error:  # the loader of runs names the file
            raise ValueError(f"data.json: {error}") from error

    return Reader(read, [folder / "data.json"], errors=ValueError)


def metrics_lines(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    """Read by a run that goes on and by compare.py."""
    from lnjax.comparison import results
    from lnjax.training import manifest, writer

    rows = [
        {"step": step, "seconds": step / 7, name: 1 / step, "train/accuracy": None}
        for step in range(10, 300, 10)
        for name in ("train/loss", "validation/loss")
    ]
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest.write_json(folder / "manifest.json", {"seed": 0, "git": None})
    manifest.write_json(folder / "outcome.json", {"status": "done", "step": 290, "together": 1})

    def read() -> Read:
        run = results.gather_run(folder, folder.parent, 0)
        curves = [results.curve(run, name) for name in ("train/loss", "validation/loss")]
        return Read([writer.last_recorded_step(folder), run, curves])

    return Reader(read, below(folder), errors=ValueError)


def sums_of_a_checkpoint(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    """A folder of files under a list of SHA-256 sums; it is read only if nothing is wrong."""
    from lnjax.training import manifest

    step = folder / "7"
    (step / "state").mkdir(parents=True)
    for name in ("state/a", "state/b", "info"):
        (step / name).write_bytes(name.encode() * 100)
    manifest.write_sums(step, folder / "7.sha256", "7")

    def read() -> Read:
        if problem := manifest.sums_problem(step, folder / "7.sha256"):
            raise ValueError(problem)
        return Read({path.name: path.read_bytes() for path in below(step)})

    return Reader(read, below(folder), errors=ValueError, pinned=True)


def embedded_source(folder: Path, patch: pytest.MonkeyPatch) -> Reader:
    """A file below a checksum of its own: packed or not, it is read whole or not at all."""
    path = folder / "source.gz"
    import gzip

    path.write_bytes(gzip.compress(b"line of text\n" * 500))
    return Reader(lambda: Read(source_files.read(path, 1 << 16)), [path])


CASES: Mapping[str, Case] = {
    "IAM-OnDB tree": iam_tree,
    "amat": amat_text,
    "idx": idx_plain,
    "idx, packed": idx_packed,
    "CIFAR-10 files": cifar_files,
    "CIFAR-10 archive": cifar_archive,
    "COCO captions and features": coco_text_and_features,
    "Karpathy's JSON": karpathy_json,
    "CNN questions": cnn_text,
    "CNN pickles": cnn_pickled,
    "books": book_lines,
    "SentEval sets": sentence_sets,
    "SICK": sick_alone,
    "polarity": polarity_alone,
    "word vectors, text": vectors_as_text,
    "word vectors, binary": vectors_as_binary,
    "packed source file": embedded_source,
    "prepared, in memory": prepared_in_memory,
    "prepared, on disk": prepared_on_disk,
    "config.json and data.json": run_description,
    "vocabulary of a run": vocabulary_of_a_run,
    "metrics.jsonl and its neighbours": metrics_lines,
    "checkpoint's sums": sums_of_a_checkpoint,
}
