"""The cache: several processes, digests, damage, changed sources, refusals that leave no trace."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lnjax.data import DataError, cache_dir, prepare
from lnjax.data import records as records_module
from lnjax.data.preparation import RECORD_FILE, check

HERE = Path(__file__).parent


def run_python(code, **environment):
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(prepared):
    return {
        name: [(record["name"], record["values"].tolist()) for record in split]
        for name, split in prepared.splits.items()
    }


@pytest.fixture
def toy_data(toy, tmp_path):
    return prepare(toy.ToyNumbers, "embedded", cache=tmp_path), tmp_path


def shards(cache):
    return sorted(cache.rglob("*array_record-*"))


def test_records_come_back_in_order(toy, toy_data):
    prepared, _ = toy_data
    written = toy.embedded_examples()
    assert (prepared.name, prepared.config, prepared.version) == (
        "toy_numbers",
        "embedded",
        "1.0.0",
    )
    assert {name: len(split) for name, split in prepared.splits.items()} == toy.LENGTHS
    assert records(prepared) == {
        name: [(example["name"], example["values"].tolist()) for example in examples]
        for name, examples in written.items()
    }
    record = prepared.splits["train"][-1]
    assert record["name"] == "train 11" and record["values"].dtype == np.float32
    assert prepared.statistics == {"total": sum(e["values"].sum() for e in written["train"])}
    with pytest.raises(IndexError):
        prepared.splits["test"][5]


def test_records_cannot_be_changed(toy_data):
    prepared, _ = toy_data
    with pytest.raises(ValueError, match="read-only"):
        prepared.splits["train"][0]["values"][0] = 1.0
    prepared.splits["train"][0]["name"] = "other"
    assert prepared.splits["train"][0]["name"] == "train 0"


def test_digest_is_of_the_records(toy, toy_data, tmp_path, monkeypatch):
    prepared, cache = toy_data
    again = prepare(toy.ToyNumbers, "embedded", cache=tmp_path / "second")
    assert again.digest == prepared.digest and re.fullmatch("[0-9a-f]{64}", again.digest)
    (file,) = (path for path in cache.rglob(RECORD_FILE) if "second" not in path.parts)
    stored = file.read_text()
    file.unlink()
    assert prepare(toy.ToyNumbers, "embedded", cache=cache).digest == prepared.digest
    assert file.read_text() == stored
    changed = toy.embedded_examples()
    changed["test"][-1]["values"][-1] += 1e-6 * changed["test"][-1]["values"][-1]
    monkeypatch.setattr(toy, "embedded_examples", lambda: changed)
    other = prepare(toy.ToyNumbers, "embedded", cache=tmp_path / "third")
    assert other.digest != prepared.digest


@pytest.mark.slow
def test_three_processes_at_once(tmp_path):
    code = (
        "import sys, toy_numbers, lnjax.data as d\n"
        f"p = d.prepare(toy_numbers.ToyNumbers, 'embedded', cache={str(tmp_path / 'c')!r})\n"
        "print(p.digest, [r['name'] for r in p.splits['test']])\n"
    )
    log = tmp_path / "log"
    processes = [run_python(code, TOY_SECONDS="2", TOY_LOG=str(log)) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1 and "test 4" in outputs[0][0]
    assert log.read_text() == "read\n"  # one did the work, the others waited


def test_a_log_that_is_full_holds_nothing_up(toy, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    assert prepare(toy.ToyNumbers, "embedded", cache=tmp_path).splits


def test_one_line_on_stderr_and_nothing_on_stdout(toy, tmp_path, capfd):
    prepare(toy.ToyNumbers, "embedded", cache=tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"preparing toy_numbers/embedded 1\.0\.0 \(once\) \.\.\. \d+\.\d s\n", err)
    prepare(toy.ToyNumbers, "embedded", cache=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_environment_names_the_cache(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LNJAX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert cache_dir() == tmp_path / "home" / ".cache" / "lnjax"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert cache_dir() == tmp_path / "tfds"
    monkeypatch.setenv("LNJAX_DATA_DIR", "~/own")
    assert cache_dir() == tmp_path / "home" / "own"
    prepare(toy.ToyNumbers, "embedded")
    assert shards(tmp_path / "home" / "own") and not (tmp_path / "tfds").exists()


def assert_damaged(toy, cache):
    folder = cache / "toy_numbers" / "embedded" / "1.0.0"
    with pytest.raises(DataError, match="delete this folder and run again") as caught:
        records(prepare(toy.ToyNumbers, "embedded", cache=cache))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="delete this folder"):
        check(toy.ToyNumbers, "embedded", cache=cache)


def test_flipped_bytes_are_refused_or_harmless(toy, toy_data):
    prepared, cache = toy_data
    expected, refused = records(prepared), 0
    shard = next(path for path in shards(cache) if "train" in path.name)
    good = shard.read_bytes()
    used = np.flatnonzero(np.frombuffer(good, np.uint8))  # the rest is the format's padding
    for place in used[:: max(1, len(used) // 60)]:
        shard.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        try:
            assert records(prepare(toy.ToyNumbers, "embedded", cache=cache)) == expected
        except DataError as error:
            assert str(shard.parent) in str(error)
            refused += 1
    assert refused >= 20
    shard.write_bytes(good)
    assert records(prepare(toy.ToyNumbers, "embedded", cache=cache)) == expected


def test_truncated_shard_is_refused(toy, toy_data):
    _, cache = toy_data
    shard = shards(cache)[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert_damaged(toy, cache)


@pytest.mark.parametrize("name", ["dataset_info.json", "*train.array_record*"])
def test_missing_file_is_refused(toy, toy_data, name):
    _, cache = toy_data
    (file,) = (cache / "toy_numbers" / "embedded" / "1.0.0").glob(name)
    file.unlink()
    assert_damaged(toy, cache)


@pytest.mark.parametrize("name", ["dataset_info.json", RECORD_FILE])
def test_garbled_file_is_refused(toy, toy_data, name):
    _, cache = toy_data
    (file,) = cache.rglob(name)
    file.write_text(file.read_text()[:20])
    assert_damaged(toy, cache)


def test_facts_of_an_older_rule_are_computed_again(toy, toy_data):
    prepared, cache = toy_data
    (file,) = cache.rglob(RECORD_FILE)
    stored = file.read_text()
    file.write_text(json.dumps({"digest_rule": 0, "digest": "0" * 64}))
    assert prepare(toy.ToyNumbers, "embedded", cache=cache).digest == prepared.digest
    assert file.read_text() == stored


def test_other_records_than_were_written_are_refused(toy, toy_data, tmp_path):
    _, cache = toy_data
    (file,) = cache.rglob(RECORD_FILE)
    facts = json.loads(file.read_text())
    facts["split_digests"]["test"] = "0" * 64
    file.write_text(json.dumps(facts))
    assert_damaged(toy, cache)


def test_leftovers_of_a_killed_process_go(toy, tmp_path):
    left_over = tmp_path / "toy_numbers" / "embedded" / "incomplete.ABC_1.0.0"
    left_over.mkdir(parents=True)
    assert len(prepare(toy.ToyNumbers, "embedded", cache=tmp_path).splits["train"]) == 12
    assert not left_over.exists()


def test_failure_while_writing_leaves_no_data_set(toy, tmp_path, monkeypatch):
    broken = toy.embedded_examples()
    broken["test"][-1]["values"] = np.zeros((2, 2), np.float32)  # not the shape of the feature
    with monkeypatch.context() as patch:
        patch.setattr(toy, "embedded_examples", lambda: broken)
        with pytest.raises(Exception, match="test"):
            prepare(toy.ToyNumbers, "embedded", cache=tmp_path)
    assert not shards(tmp_path)
    assert len(prepare(toy.ToyNumbers, "embedded", cache=tmp_path).splits["test"]) == 5


def test_real_source_is_tied_to_its_cache(toy, tmp_path):
    def write(folder, text, time):
        file = tmp_path / folder / "numbers.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        os.utime(file, ns=(time, time))
        prepared = prepare(toy.ToyNumbers, "real", manual_dir=file.parent, cache=tmp_path / "cache")
        assert prepared.config == "real"
        return prepared.splits["train"][0]["values"].tolist()

    assert write("one", "1 2", 10**9) == [1, 2]
    assert write("two", "3 4", 2 * 10**9) == [3, 4]  # another tree
    assert write("one", "5 6", 3 * 10**9) == [5, 6]  # a changed tree
    assert write("one", "1 2", 10**9) == [1, 2]


def test_real_source_is_prepared_quietly(toy, tmp_path):
    (tmp_path / "numbers.txt").write_text("1 2")
    code = (
        "import toy_numbers, lnjax.data as d\n"
        f"d.prepare(toy_numbers.ToyNumbers, 'real', manual_dir={str(tmp_path)!r}, "
        f"cache={str(tmp_path / 'cache')!r})\n"
    )
    out, err = run_python(code).communicate()
    assert out == ""
    assert re.fullmatch(r"preparing toy_numbers/real 1\.0\.0 \(once\) \.\.\. \d+\.\d s\n", err)


def test_refused_source_leaves_no_trace(toy, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for text in (None, "1 2 bad"):
        if text:
            (source / "numbers.txt").write_text(text)
        with pytest.raises(DataError, match=r"numbers\.txt"):
            prepare(toy.ToyNumbers, "real", manual_dir=source, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_check_writes_nothing(toy, tmp_path):
    assert check(toy.ToyNumbers, "embedded", cache=tmp_path / "cache") == {}
    (tmp_path / "numbers.txt").write_text("1 2")
    counts = check(toy.ToyNumbers, "real", manual_dir=tmp_path, cache=tmp_path / "cache")
    assert counts == {"train": 1, "test": 1}
    assert not (tmp_path / "cache").exists()
    prepare(toy.ToyNumbers, "embedded", cache=tmp_path / "cache")
    assert check(toy.ToyNumbers, "embedded", cache=tmp_path / "cache") == toy.LENGTHS


def test_wrong_arguments_are_refused(toy, tmp_path):
    with pytest.raises(DataError, match=r"no config 'paper'.*embedded"):
        prepare(toy.ToyNumbers, "paper", cache=tmp_path)
    with pytest.raises(DataError, match="reads no folder"):
        prepare(toy.ToyNumbers, "embedded", manual_dir=tmp_path, cache=tmp_path)


def test_imports(tmp_path):
    code = (
        "import sys, numpy as np, lnjax.data as d\n"
        "assert not {'tensorflow_datasets', 'grain'} & set(sys.modules)\n"
        "import toy_numbers\n"
        "from lnjax.data import handwriting, iam, pipeline, scripture, synthetic_pen\n"
        f"p = d.prepare(toy_numbers.ToyNumbers, 'embedded', cache={str(tmp_path)!r})\n"
        "collate = lambda examples: {'n': np.array([len(e['values']) for e in examples])}\n"
        "next(pipeline.train_batches(p.splits['train'], seed=0, batch_size=2, collate=collate))\n"
        "synthetic_pen.write(scripture.verses()[0].text, synthetic_pen.Style(), "
        "np.random.default_rng(0))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    process = run_python(code)
    _, err = process.communicate()
    assert process.returncode == 0, err


def test_a_split_is_read_in_pieces(toy, toy_data, monkeypatch):
    whole, cache = toy_data
    expected = records(whole)
    monkeypatch.setattr(records_module, "_PIECE", 5)
    pieces = prepare(toy.ToyNumbers, "embedded", cache=cache)
    assert records(pieces) == expected and pieces.digest == whole.digest


@pytest.fixture(params=[True, False], ids=["in memory", "on disk"])
def either(toy, toy_data, request, monkeypatch):
    """A prepared set that is read as a whole, or record by record."""
    monkeypatch.setattr(toy.ToyNumbers, "IN_MEMORY", request.param)
    return toy_data


def test_statistics_are_covered_by_a_sum(toy, either):
    prepared, cache = either
    (file,) = cache.rglob(RECORD_FILE)
    total = f'"total": {prepared.statistics["total"]}'
    text = file.read_text()
    assert total in text
    file.write_text(text.replace(total, '"total": 1.0'))
    assert_damaged(toy, cache)


def test_exchanged_shards_are_refused(toy, either):
    _, cache = either
    test, train = shards(cache)
    content = train.read_bytes()
    train.write_bytes(test.read_bytes())
    test.write_bytes(content)
    assert_damaged(toy, cache)


@pytest.mark.parametrize("name", ["lnjax.json", "dataset_info.json", "*test.array_record*"])
@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.name), Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_damage(toy, either, name, make):
    _, cache = either
    (file,) = (cache / "toy_numbers" / "embedded" / "1.0.0").glob(name)
    file.unlink()
    make(file)
    assert_damaged(toy, cache)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"digest_rule": 2}', "[" * 100_000])
def test_facts_of_another_form(toy, either, text):
    _, cache = either
    (file,) = cache.rglob(RECORD_FILE)
    file.write_text(text)
    assert_damaged(toy, cache)


def test_a_split_of_negative_length(toy, either):
    prepared, cache = either
    file = next(cache.rglob("dataset_info.json"))
    file.write_text(re.sub(r'"12"', '"-12"', file.read_text()))
    try:
        assert records(prepare(toy.ToyNumbers, "embedded", cache=cache)) == records(prepared)
    except DataError as error:
        assert "delete this folder" in str(error)
