"""Sentences with their neighbours: embedded chapters, files in the form of BookCorpus, refusals."""

import gzip

import pytest

from lnjax.data import __main__ as command
from lnjax.data import books, prepare, records, scripture_sentences
from lnjax.data.ordered_writing import RecordsInOrder
from lnjax.data.sentences import Sentences

CORPUS = {
    books.FILES[0]: [f"one sentence {i} ." for i in range(23)],
    books.FILES[1]: [f"`` two , ' said {i} . ''" for i in range(80)],
}


class Corpus:
    """A folder with the two files; `write` puts other lines (or bytes) into one of them."""

    def __init__(self, base):
        self.base = base
        base.mkdir(parents=True)
        for name, lines in CORPUS.items():
            self.write(name, lines)

    def write(self, name, content):
        if not isinstance(content, bytes):
            content = "".join(f"{line}\n" for line in content).encode()
        (self.base / name).write_bytes(content)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(books, "BLOCK", 10)
    return Corpus(tmp_path / "books")


def triples(examples):
    """All rows of three neighbours, in order."""
    found = []
    for example in examples:
        lines = example["sentences"].split("\n")
        found += list(zip(lines, lines[1:], lines[2:], strict=False))
    return found


def neighbours(lines):
    return list(zip(lines, lines[1:], lines[2:], strict=False))


def test_every_triple_of_the_files_is_in_one_record(corpus, tmp_path):
    for folder in (corpus.base, corpus.base.parent):
        prepared = prepare(Sentences, "real", manual_dir=folder, cache=tmp_path / "cache")
        first, second = CORPUS.values()
        assert triples(prepared.splits["train"]) == neighbours(first) + neighbours(second[:72])
        assert triples(prepared.splits["validation"]) == neighbours(second[72:76])
        assert triples(prepared.splits["test"]) == neighbours(second[76:])
    assert len(list((tmp_path / "cache" / "sentences").glob("real-*"))) == 1
    assert [record["source"] for record in prepared.splits["train"]][1:4] == [
        "books_large_p1.txt sentence 11",
        "books_large_p1.txt sentence 21",
        "books_large_p2.txt sentence 1",
    ]
    statistics = prepared.statistics
    assert statistics["sentences"] == 23 + 2 * 2 + 72 + 6 * 2
    assert statistics["words"]["one"] == 23 + 4
    assert list(statistics["words"].values()) == sorted(statistics["words"].values())[::-1]
    assert statistics["types"] == len(statistics["words"])
    assert statistics["tokens"] == sum(statistics["words"].values())


def test_white_space_and_blank_lines_are_no_part_of_the_text(corpus, tmp_path):
    plain = prepare(Sentences, "real", manual_dir=corpus.base, cache=tmp_path / "cache")
    dirty = [f"  {line.replace(' ', chr(9))} " for line in CORPUS[books.FILES[0]]]
    dirty = b"\r\n".join(
        line.encode() for line in [*dirty[:4], "", " ", *dirty[4:12], "", *dirty[12:]]
    )
    corpus.write(books.FILES[0], dirty)  # and no line feed at the end
    again = prepare(Sentences, "real", manual_dir=corpus.base, cache=tmp_path / "cache")
    assert again.digest == plain.digest


def test_records_are_read_when_they_are_asked_for(corpus, tmp_path):
    """Splits that do not fit into memory: the pieces are not kept, any order gives the same."""
    prepared = prepare(Sentences, "real", manual_dir=corpus.base, cache=tmp_path / "cache")
    train = prepared.splits["train"]
    assert isinstance(train, records.Records)
    each = list(train)
    assert [train[i] for i in reversed(range(len(train)))] == each[::-1]
    assert train[2:5] == each[2:5] and train[-1] == each[-1]


def test_tfds_collects_no_split_in_memory(corpus, tmp_path, monkeypatch):
    """Beyond a size it would collect records in files, which it opens with TensorFlow."""
    from tensorflow_datasets.core import shuffle

    expected = prepare(Sentences, "real", manual_dir=corpus.base, cache=tmp_path / "one")
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 300)
    found = prepare(Sentences, "real", manual_dir=corpus.base, cache=tmp_path / "two")
    assert found.digest == expected.digest


def test_records_out_of_order_are_not_written(tmp_path):
    collected = RecordsInOrder(tmp_path / "new", "salt", disable_shuffling=True)
    assert list(collected) == []
    records = [b"one", b"", b"x" * 100_000]
    for key, data in enumerate(records):
        assert collected.add(key, data)
    with pytest.raises(ValueError, match="record 5 came where 3 was expected"):
        collected.add(5, b"")
    assert (collected.num_examples, collected.size) == (3, 100_003)
    assert list(collected) == list(enumerate(records))
    assert list((tmp_path / "new").iterdir()) == []
    collected.close()
    with pytest.raises(ValueError, match="disable_shuffling=True"):
        RecordsInOrder(tmp_path, "salt")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (1, b"", ["books_large_p2.txt", "empty"]),
        (0, ["a b", "c"], ["books_large_p1.txt", "2 lines", "at least three"]),
        (1, ["a b"] * 8, ["books_large_p2.txt", "8 sentences", "at least 9"]),
        (0, b"a b\nc\0d\ne\n", ["books_large_p1.txt line 2", "NUL", "byte 2"]),
        (1, b"a\n\nb \xe9 c\nd\n", ["books_large_p2.txt line 3", "byte 3", "UTF-8"]),
        (0, ["a", "b " * 50_001, "c"], ["books_large_p1.txt line 2", "longer than 100,000"]),
        (0, ["a b c"] * 7 + [""] * 3, ["books_large_p1.txt", "3 of 10 lines", "20%"]),
        (0, ["a", "<p>b</p>", "c"], ["books_large_p1.txt line 2", "HTML", "<p>"]),
        (1, ["<!DOCTYPE html>", "b", "c"], ["books_large_p2.txt line 1", "HTML"]),
        (1, CORPUS[books.FILES[0]], ["books_large_p2.txt", "same content as books_large_p1.txt"]),
        (0, gzip.compress(b"a\nb\nc\n", mtime=0), ["books_large_p1.txt", "gzip", "unpack"]),
        (1, b"PK\x03\x04 and so on", ["books_large_p2.txt", "zip", "unpack"]),
    ],
)
def test_bad_files_are_refused(corpus, refused, name, content, parts):
    corpus.write(books.FILES[name], content)
    message = refused(Sentences, corpus.base)
    assert "\n" not in message and all(part in message for part in parts), message


def test_missing_files_and_folders_are_refused(corpus, refused):
    (corpus.base / books.FILES[1]).unlink()
    message = refused(Sentences, corpus.base)
    assert "books_large_p2.txt not found" in message and "<folder>/books/" in message
    (corpus.base / books.FILES[1]).mkdir()
    assert "books_large_p2.txt: a folder" in refused(Sentences, corpus.base)
    assert "no folder was given" in refused(Sentences, None)


def test_capital_letters_are_warned_of(corpus, capsys):
    books.read_folder(corpus.base)
    assert capsys.readouterr().err == ""
    corpus.write(books.FILES[0], [line.title() for line in CORPUS[books.FILES[0]]])
    books.read_folder(corpus.base)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "23 of 23 sentences have capital letters" in line


def test_the_command(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LNJAX_DATA_DIR", str(tmp_path / "cache"))
    arguments = ["--task", "sentences", "--config", "real", "--manual_dir", str(corpus.base)]
    assert command.main(["check", *arguments]) == 0
    assert not (tmp_path / "cache").exists()
    checked = capsys.readouterr().out
    assert command.main(["prepare", *arguments]) == 0
    assert capsys.readouterr().out == checked
    rows = [line.split() for line in checked.splitlines()[1:]]
    assert rows[0] == ["train", "10", "expected", "739643", "(-739633)"]
    assert checked.startswith("sentences/real: blocks of 100 sentences by split\n")
    corpus.write(books.FILES[0], b"")
    assert command.main(["check", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_embedded(embedded_cache):
    prepared = prepare(Sentences, "embedded", cache=embedded_cache)
    found = {split: list(records) for split, records in prepared.splits.items()}
    expected = scripture_sentences.NUM_CHAPTERS
    assert {split: len(records) for split, records in found.items()} == expected
    of_split = {
        split: {record["source"].rpartition(" ")[0] for record in records}
        for split, records in found.items()
    }
    assert len(of_split["train"]) == 66 - 4
    assert of_split["validation"] == {"Genesis", "Acts"}
    assert of_split["test"] == {"Job", "John"}
    genesis = found["validation"][0]
    assert genesis["source"] == "Genesis 1"
    assert genesis["sentences"].split("\n")[:4] == [
        "in the beginning god created the heavens and the earth .",
        "now the earth was formless and empty .",
        "darkness was on the surface of the deep .",
        "god 's spirit was hovering over the surface of the waters .",
    ]
    lines = [line for record in found["train"] for line in record["sentences"].split("\n")]
    assert all(line == line.lower() and line.split() for line in lines)
    assert prepared.statistics["sentences"] == len(lines)
    assert next(iter(prepared.statistics["words"])) == ","


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('He said, "Go!" She went. Why?', ['He said, "Go!"', "She went.", "Why?"]),
        ("One. Two", ["One.", "Two"]),
        ("It is 3.5 cubits.  (Selah.) Amen. ", ["It is 3.5 cubits.", "(Selah.)", "Amen."]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_are_cut_where_they_end(text, sentences):
    assert scripture_sentences.cut(text) == sentences
