"""Word vectors of word2vec, text and binary: read as written, refused if damaged."""

import numpy as np
import pytest

from lnjax.data import DataError, word_vectors

WORDS = ("the", "New_York", "naïve", "'s")
VECTORS = np.array([[1.5, -2], [0.25, 1e-3], [3, 4], [-0.5, 0.125]], np.float32)


def text(words=WORDS, vectors=VECTORS):
    head = f"{len(words)} {vectors.shape[1]}\n"
    lines = (
        f"{word} {' '.join(map(repr, row.tolist()))}\n"
        for word, row in zip(words, vectors, strict=True)
    )
    return (head + "".join(lines)).encode()


def binary(words=WORDS, vectors=VECTORS, between=b"\n"):
    head = f"{len(words)} {vectors.shape[1]}\n".encode()
    records = (
        word.encode() + b" " + row.astype("<f4").tobytes() + between
        for word, row in zip(words, vectors, strict=True)
    )
    return head + b"".join(records)


@pytest.mark.parametrize(
    "content",
    [text(), text().rstrip(b"\n"), text().replace(b"\n", b" \r\n"), binary(), binary(between=b"")],
)
def test_both_formats(tmp_path, content):
    path = tmp_path / "vectors"
    path.write_bytes(content)
    found = word_vectors.read(path)
    assert found.words == WORDS
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, VECTORS)
    kept = word_vectors.read(path, keep=lambda word: "_" not in word)
    assert kept.words == ("the", "naïve", "'s")
    np.testing.assert_array_equal(kept.vectors, VECTORS[[0, 2, 3]])
    none = word_vectors.read(path, keep=lambda word: False)
    assert none.words == () and none.vectors.shape == (0, 2)


NAN = np.where(VECTORS == 3, np.nan, VECTORS)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["empty"]),
        (b"the 1.5 -2\na 1 2\n", ["line 1", "two numbers"]),
        (b"\x1f\x8b\x08\x00 and so on", ["line 1", "not packed"]),
        (b"0 2\n", ["line 1", "two numbers"]),
        (text(WORDS[:3], VECTORS[:3]).replace(b"3 2", b"4 2", 1), ["line 5", "no word", "4 words"]),
        (text().replace(b"4 2", b"3 2", 1), ["line 5", "one word more", "expected 3"]),
        (text().replace(b"0.25 ", b""), ["line 3", "1 numbers", "expected 2"]),
        (text().replace(b"0.25", b"0.x5"), ["line 3", "0.x5"]),
        (text(vectors=NAN), ["word 3", "'naïve'", "not finite"]),
        (text(("a", "b", "a", "c")), ["word 3", "'a' is also word 1"]),
        (text().replace("naïve".encode(), b"na\xefve"), ["word 3", "UTF-8"]),
        (binary()[:-6], ["word 4", "ends within"]),
        (binary() + b"rest", ["5 bytes more"]),
        (binary(vectors=NAN), ["word 3", "not finite"]),
        (binary(("a", "b", "a", "c")), ["word 3", "'a' is also word 1"]),
        (binary(("a", "", "b", "c")), ["word 2", "an empty word"]),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, parts):
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        word_vectors.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert all(part in message for part in parts), message


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: cannot be read"):
        word_vectors.read(tmp_path / "nowhere")
