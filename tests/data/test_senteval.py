"""SICK, MR, CR, SUBJ, MPQA: what is read of all editions, and everything that is refused."""

import gzip
import shutil

import numpy as np
import pytest

from lnjax.data import __main__ as command
from lnjax.data import polarity, sentence_sets, sick, text_lines
from lnjax.data.preparation import check
from lnjax.data.senteval import PUBLISHED, Senteval, find_files
from tests.data.sentence_files import (
    SICK_COUNTS,
    SIZES,
    TWELVE,
    SentevalFolder,
    sentences_of,
    sick_row,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return SentevalFolder(tmp_path / "files", monkeypatch)


def read(base):
    return Senteval.read_source("real", base)


# ---- what is read ------------------------------------------------------------------------------


def test_a_folder_becomes_sets(folder, tmp_path):
    sets = sentence_sets.load("real", folder.base, cache=tmp_path / "cache")
    assert set(sets) == {"sick", "mr", "cr", "subj", "mpqa"}
    for split, part in sets["sick"]._asdict().items():
        rows = [sick_row(split, number) for number in range(SICK_COUNTS[split])]
        assert part.first == [row["sentence_A"] for row in rows]
        assert part.second == [row["sentence_B"] for row in rows]
        assert part.scores.tolist() == [float(row["relatedness_score"]) for row in rows]
    for name, sizes in SIZES.items():
        both = [*sentences_of(name, "positive"), *sentences_of(name, "negative")]
        assert sets[name].sentences == both  # blank lines of CR and MPQA are gone
        assert sets[name].labels.tolist() == [1] * sizes[0] + [0] * sizes[1]
        assert sets[name].labels.dtype == np.int64
    assert "caf\u00e9 film \u2013 with a dash \u2026" in sets["mr"].sentences[0]
    counts = check(Senteval, "real", manual_dir=folder.base, cache=tmp_path / "cache")
    assert counts["sick_train"] == 12 and counts["mpqa_negative"] == 14


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("columns", [TWELVE, TWELVE[::-1]], ids=["twelve", "in another order"])
def test_editions_hold_the_same(tmp_path, monkeypatch, columns, encoding):
    first = SentevalFolder(tmp_path / "first", monkeypatch)
    other = SentevalFolder(tmp_path / "other", monkeypatch, columns, encoding)
    other.write_sick("train", end="\r\n")
    other.write_sick("trial", end=" \n")
    path = other.path("subj", "positive")
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert read(other.base) == read(first.base)


def test_where_the_files_may_be(folder, tmp_path):
    expected = read(folder.base)
    key = Senteval.source_key("real", folder.base)
    folder.base.rename(tmp_path / "senteval")
    assert read(tmp_path) == expected and Senteval.source_key("real", tmp_path) == key
    base = tmp_path / "senteval"
    for set_folder, pattern in (("SICK", "SICK_*.txt"), ("MR", "rt-*"), ("MPQA", "mpqa.*")):
        (base / set_folder).mkdir()
        for path in list(base.glob(pattern)):
            if path.is_file():
                path.rename(base / set_folder / path.name)
    (base / "plot.tok.gt9.5000").rename(base / "subj.objective")
    (base / "quote.tok.gt9.5000").rename(base / "subj.subjective")
    assert read(base) == expected


def test_one_set_is_enough(folder, tmp_path):
    for name in ("sick", "cr", "subj", "mpqa"):
        for part in SICK_COUNTS if name == "sick" else polarity.CLASSES:
            folder.path(name, part).unlink()
    assert set(read(folder.base)) == {"mr_positive", "mr_negative"}
    assert set(sentence_sets.load("real", folder.base, cache=tmp_path / "cache")) == {"mr"}


def test_lines_end_with_a_line_feed_only(tmp_path):
    path = tmp_path / "file"
    path.write_bytes("one \u0085 line\nand \u2028 another\x0b\nlast".encode())
    assert text_lines.read(path) == ["one \u0085 line", "and \u2028 another", "last"]


def test_the_command_prints_the_published_counts(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LNJAX_DATA_DIR", str(tmp_path / "cache"))
    folder.path("cr", "positive").unlink()
    folder.path("cr", "negative").unlink()
    arguments = ["--task", "senteval", "--config", "real", "--manual_dir", str(folder.base)]
    assert command.main(["check", *arguments]) == 0
    assert not (tmp_path / "cache").exists()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0] == "senteval/real:" and len(lines) == 1 + len(PUBLISHED)
    assert lines[1] == ["sick_train", "12", "expected", "4500", "(-4488)"]
    assert ["cr_positive", "0", "expected", "2406", "(-2406)"] in lines
    assert ["mr_negative", "12", "expected", "5331", "(-5319)"] in lines


# ---- what is refused ---------------------------------------------------------------------------


def replace(old, new):
    def change(line):
        assert old in line
        return line.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("split", "line", "change", "message"),
    [
        ("test", 1, replace(b"relatedness_score", b"score"), "no column relatedness_score among"),
        ("train", 1, replace(b"entailment_judgment", b"x"), "entailment_judgment or entailment_"),
        ("train", 1, replace(b"\t", b" "), "no column pair_ID among"),
        ("train", 4, lambda line: line.rsplit(b"\t", 1)[0], "4 columns; expected the 5 of line 1"),
        ("trial", 3, lambda line: line + b"\tmore", "6 columns; expected the 5 of line 1"),
        ("train", 5, lambda line: b"", "1 columns; expected the 5"),
        ("test", 2, replace(b"\t1\t", b"\t0.9\t"), "relatedness_score 0.9 is out of range"),
        ("test", 3, replace(b"\t5\t", b"\t5.1\t"), "relatedness_score 5.1 is out of range"),
        ("test", 3, replace(b"\t5\t", b"\tnan\t"), "relatedness_score nan is out of range"),
        ("train", 4, replace(b"\t3.4\t", b"\t3,4\t"), "relatedness_score '3,4' is no number"),
        ("train", 2, replace(b"CONTRADICTION", b"CONTRARY"), "entailment 'CONTRARY'; expected one"),
        ("train", 4, replace(b"3\t", b"2\t"), "pair_ID 2 again, as in SICK_train.txt line 3"),
        ("test", 3, replace(b"2002\t", b"7\t"), "pair_ID 7 again, as in SICK_train.txt line 8"),
        ("train", 6, lambda line: b"\t".join([line.split(b"\t")[0], b" ", *line.split(b"\t")[2:]]),
         "sentence_A is empty"),
        ("trial", 2, replace(b"guitar", b"guitar\x81"), "byte 0x81 cannot be decoded, tried UTF-8"),
        ("trial", 2, replace(b"guitar", b"gui\x00tar"), r"the byte b'\x00' is in no text"),
    ],
)  # fmt: skip
def test_a_row_of_sick(refused, folder, split, line, change, message):
    path = folder.edit("sick", split, line, change)
    text = refused(Senteval, folder.base)
    assert text.startswith(f"{path} line {line}: ") and message in text
    assert "; expected " in text and ("; download" in text or "; save" in text)


def test_number_of_pairs(refused, folder):
    path = folder.path("sick", "test")
    path.write_bytes(path.read_bytes().rsplit(b"\n", 2)[0] + b"\n")
    text = refused(Senteval, folder.base)
    assert f"{path} line 8: the file ends after 7 pairs; expected 8 for 'test'" in text


def test_published_numbers():
    """Of SemEval 2014, and of the edition without repeated pairs: 9,927 and 9,840."""
    assert [sum(numbers) for numbers in zip(*sick.COUNTS.values(), strict=True)] == [9927, 9840]
    assert polarity.EXACTLY == {"mr": 5331, "subj": 5000}
    assert all(PUBLISHED[f"sick_{split}"] == counts[0] for split, counts in sick.COUNTS.items())


@pytest.mark.parametrize("name", ["mr", "subj"])
def test_number_of_sentences(refused, folder, name):
    path = folder.edit(name, "negative", 3, lambda line: line + b"\nmore")
    size = SIZES[name][1]
    expected = f"{path} line {size + 1}: the file ends after {size + 1} sentences; expected {size}"
    assert expected in refused(Senteval, folder.base)


@pytest.mark.parametrize("name", ["mr", "subj"])
def test_an_empty_sentence(refused, folder, name):
    path = folder.edit(name, "positive", 4, lambda line: b" \t")
    assert f"{path} line 4: an empty sentence; expected" in refused(Senteval, folder.base)


def test_too_few_for_ten_folds(refused, folder):
    path = folder.edit("mpqa", "positive", 3, lambda line: b"")
    assert f"{path} line 13: the file ends after 9 sentences; expected at least 10" in refused(
        Senteval, folder.base
    )


def test_one_file_of_a_set(refused, folder):
    folder.path("mr", "negative").unlink()
    text = refused(Senteval, folder.base)
    assert f"{folder.base}: MR has rt-polarity.pos but no rt-polarity.neg" in text
    assert "copy the missing" in text


def test_two_of_three_files_of_sick(refused, folder):
    folder.path("sick", "trial").unlink()
    text = refused(Senteval, folder.base)
    assert "SICK has SICK_test_annotated.txt, SICK_train.txt but no SICK_trial.txt" in text


@pytest.mark.parametrize("name", SIZES)
def test_both_classes_from_one_file(refused, folder, monkeypatch, name):
    monkeypatch.setattr(polarity, "EXACTLY", {})
    shutil.copy(folder.path(name, "positive"), folder.path(name, "negative"))
    text = refused(Senteval, folder.base)
    assert f"{folder.path(name, 'negative')}: the same sentences as " in text


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"fine\nstill \xff\xfe \x8d fine\n", 2, "0x8d cannot be decoded, tried UTF-8"),
        # UTF-8 until here, so it is not Windows-1252: it was cut, or joined of two.
        (b"caf\xc3\xa9\nfine\ncaf\xe9 fine\n", 3, "0xe9 cannot be decoded, tried UTF-8 ("),
        ("utf-16 text".encode("utf-16"), 1, r"the byte b'\x00' is in no text"),
        (b"<!DOCTYPE html><html>", 1, "it looks like an HTML page"),
        (b"PK\x03\x04....", 1, "it looks like a zip archive"),
    ],
)
def test_a_file_that_is_no_text(refused, folder, content, line, message):
    path = folder.path("mr", "positive")
    path.write_bytes(content)
    text = refused(Senteval, folder.base)
    assert text.startswith(f"{path} line {line}: ") and message in text


def test_an_empty_file(refused, folder):
    path = folder.path("cr", "positive")
    path.write_bytes(b"")
    assert f"{path} byte 0: the file is empty" in refused(Senteval, folder.base)


def test_no_set_and_no_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    text = refused(Senteval, tmp_path / "empty")
    assert "no set of sentences was found" in text and "custrev.pos, custrev.neg" in text
    assert "SICK_train.txt" in refused(Senteval, None)
    with pytest.raises(ValueError, match="no set of sentences"):
        find_files(tmp_path / "nowhere")


@pytest.mark.parametrize("line", [b"a sentence\n", b"a"])
def test_a_packed_bomb(refused, folder, line):
    path = folder.path("cr", "positive")
    path.write_bytes(gzip.compress(line * ((1 << 22) // len(line))) * 6)
    assert str(path) in (message := refused(Senteval, folder.base)), message
    assert "expected the sentences of one set" in message
