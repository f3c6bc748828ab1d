"""Writes small image sets in the form of the published files, and tells the readers their sizes."""

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np

from lnjax.data import amat, cifar_binary, mnist_idx

# ---- idx ---------------------------------------------------------------------------------------

IDX_COUNTS = {"train": 30, "test": 20}
IDX_VALIDATION = 5


def idx_content(items):
    """An idx file of (N, 28, 28) or (N,) uint8."""
    magic = 2048 + items.ndim
    return struct.pack(f">{1 + items.ndim}I", magic, *items.shape) + items.tobytes()


def idx_arrays(seed=0, counts=IDX_COUNTS):
    """By (split, kind): random images and labels."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, number in counts.items():
        arrays[split, "images"] = rng.integers(0, 256, (number, 28, 28), np.uint8)
        arrays[split, "labels"] = rng.integers(0, 10, number, np.uint8)
    return arrays


class IdxFolder:
    """A folder of four files; the readers are told that it is the set `name`."""

    def __init__(self, base, monkeypatch, name="mnist", seed=0, counts=IDX_COUNTS):
        self.base, self.name, self.monkeypatch = base, name, monkeypatch
        self.arrays = idx_arrays(seed, counts)
        base.mkdir(parents=True, exist_ok=True)
        for part, items in self.arrays.items():
            self.path(*part).write_bytes(idx_content(items))
        monkeypatch.setattr(mnist_idx, "NUM_IMAGES", counts)
        monkeypatch.setattr(mnist_idx, "NUM_VALIDATION", IDX_VALIDATION)
        self.publish()

    def path(self, split, kind):
        return self.base / mnist_idx.FILES[split, kind]

    def publish(self):
        """Makes the present arrays the published ones."""
        digests = tuple(
            hashlib.sha256(idx_content(self.arrays[part])).hexdigest() for part in mnist_idx.FILES
        )
        self.monkeypatch.setitem(mnist_idx.PUBLISHED, self.name, digests)

    def pack(self, split, kind):
        """Replaces a file by its packed form; returns the new path."""
        path = self.path(split, kind)
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        return packed


# ---- amat --------------------------------------------------------------------------------------

AMAT_COUNTS = {"train": 12, "validation": 4, "test": 4}


def amat_content(images):
    """Lines of 784 digits for images (N, 28, 28, 1) of 0 and 1, by Python's own text."""
    return "".join(" ".join(map(str, image.ravel())) + "\n" for image in images).encode()


class AmatFolder:
    """A folder of three files; the reader is told their sizes and digests."""

    def __init__(self, base, monkeypatch, counts=AMAT_COUNTS, content=amat_content):
        rng = np.random.default_rng(0)
        self.base = base
        self.images = {
            split: rng.integers(0, 2, (number, 28, 28, 1), np.uint8)
            for split, number in counts.items()
        }
        base.mkdir(parents=True, exist_ok=True)
        digests = {}
        for split, images in self.images.items():
            text = content(images)
            digests[split] = hashlib.sha256(text).hexdigest()
            self.path(split).write_bytes(text)
        monkeypatch.setattr(amat, "NUM_IMAGES", counts)
        monkeypatch.setattr(amat, "PUBLISHED", digests)

    def path(self, split):
        return self.base / amat.FILES[split]


# ---- CIFAR-10 ----------------------------------------------------------------------------------

CIFAR_RECORDS = 20


def cifar_records(number, seed):
    """(N, 3073) uint8 records; every class equally often."""
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (number, 3073), np.uint8)
    records[:, 0] = rng.permutation(np.arange(number) % 10)
    return records


class CifarFolder:
    """A folder of six files, in an unpacked folder or an archive."""

    def __init__(self, base, monkeypatch, number=CIFAR_RECORDS):
        self.base = base
        self.records = {
            name: cifar_records(number, seed) for seed, name in enumerate(cifar_binary.FILES)
        }
        # As in the published files, the batches of the training set have classes unequally often.
        first, second = (self.records[name] for name in cifar_binary.TRAIN[:2])
        first[np.flatnonzero(first[:, 0] == 3)[0], 0] = 4
        second[np.flatnonzero(second[:, 0] == 4)[0], 0] = 3
        for name, records in self.records.items():
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            self.path(name).write_bytes(records.tobytes())
        monkeypatch.setattr(cifar_binary, "NUM_RECORDS", number)
        monkeypatch.setattr(cifar_binary, "NUM_VALIDATION", number // 2)

    def path(self, name):
        return self.base / cifar_binary.FOLDER / name

    def contents(self):
        return {name: self.path(name).read_bytes() for name in cifar_binary.FILES}

    def archive(self, members=None):
        """Packs (name, content or TarInfo) pairs, by default the files, and removes the folder."""
        if members is None:
            members = [(f"{cifar_binary.FOLDER}/{n}", c) for n, c in self.contents().items()]
        for name in cifar_binary.FILES:
            self.path(name).unlink(missing_ok=True)
        path = self.base / cifar_binary.ARCHIVE
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for name, content in members:
                info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
                data = b"" if info is content else content
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path
