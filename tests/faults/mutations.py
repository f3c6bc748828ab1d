"""Damage to files, drawn from a seed: what disks, downloads, editors and strangers do to them."""

import functools
import gzip
import io
import json
import os
import random
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

BOMB_BYTES = 1 << 30  # that a bomb of a megabyte unpacks to


class Damage(NamedTuple):
    """One mutation that was carried out."""

    kind: str
    path: Path


Change = Callable[[bytes, random.Random], bytes]


def _place(data: bytes, rng: random.Random) -> int:
    """A byte; one of two times near the beginning, where headers are."""
    end = min(len(data), 64) if rng.random() < 0.5 else len(data)
    return rng.randrange(end) if end else 0


def _chunk(data: bytes, rng: random.Random) -> tuple[int, int]:
    first = _place(data, rng)
    return first, min(len(data), first + rng.choice((1, 2, 7, 64, 1000)))


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    if data:
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def other_bytes(data: bytes, rng: random.Random) -> bytes:
    first, last = _chunk(data, rng)
    return data[:first] + rng.randbytes(last - first) + data[last:]


def another_letter(data: bytes, rng: random.Random) -> bytes:
    places = [place for place, byte in enumerate(data[:100_000]) if chr(byte).isalnum()]
    if not places:
        return data
    place = rng.choice(places)
    return data[:place] + rng.choice(b"aZ09").to_bytes() + data[place + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if data else data


def without_its_end(data: bytes, rng: random.Random) -> bytes:
    return data[: -rng.randrange(1, 20)]


def delete_a_piece(data: bytes, rng: random.Random) -> bytes:
    first, last = _chunk(data, rng)
    return data[:first] + data[last:]


def duplicate_a_piece(data: bytes, rng: random.Random) -> bytes:
    first, last = _chunk(data, rng)
    return data[:last] + data[first:]


def swap_two_pieces(data: bytes, rng: random.Random) -> bytes:
    (first, second), (third, fourth) = sorted((_chunk(data, rng), _chunk(data, rng)))
    if second > third:
        return data[::-1]
    return (
        data[:first] + data[third:fourth] + data[second:third] + data[first:second] + data[fourth:]
    )


def insert_random_bytes(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.randbytes(rng.choice((1, 4, 500))) + data[place:]


def insert_nul_bytes(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + bytes(rng.choice((1, 8, 4096))) + data[place:]


def zeros_at_the_end(data: bytes, rng: random.Random) -> bytes:
    number = rng.choice((1, 512, 4096))
    return data[:-number] + bytes(min(number, len(data)))


def insert_bad_utf8(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    bad = rng.choice((b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x80"))
    return data[:place] + bad + data[place:]


def insert_control_characters(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    bad = rng.choice((b"\x1b[2J", b"\r", b"\x07", "\u202e".encode(), "\u2028".encode(), b"\x9b0m"))
    return data[:place] + bad + data[place:]


def another_number(data: bytes, rng: random.Random) -> bytes:
    """Puts something huge, negative or odd in the place of a number that is written out."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:100_000]))
    if not found:
        return other_number_of_8_bytes(data, rng)
    one = rng.choice(found[:20] if rng.random() < 0.5 else found)
    number = rng.choice(
        (b"1000000000000", b"-1", b"0", b"1e999", b"nan", b"-inf", b"1" * 5000, b"0x10", b"1_0")
    )
    return data[: one.start()] + number + data[one.end() :]


def other_number_of_8_bytes(data: bytes, rng: random.Random) -> bytes:
    """Puts something huge in the place of four or eight bytes, of either byte order."""
    size = rng.choice((4, 8))
    number = rng.choice((2 ** (8 * size) - 1, 2 ** (8 * size - 1) - 1, 10**9, 10**12))
    number %= 2 ** (8 * size)
    place = _place(data, rng)
    place -= place % 4
    return (
        data[:place] + number.to_bytes(size, rng.choice(("little", "big"))) + data[place + size :]
    )


def nest_deeply(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    opening = rng.choice((b"[", b'{"a":', b"<a>", b"(", b"[["))
    return data[:place] + opening * rng.choice((990, 100_000)) + data[place:]


def insert_a_long_line(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.choice((b"a", b"a ", b"1", b" ")) * 1_500_000 + data[place:]


def insert_many_lines(data: bytes, rng: random.Random) -> bytes:
    place = data.find(b"\n", _place(data, rng)) + 1
    line = rng.choice((b"\n", b"a\n", data[place : data.find(b"\n", place) + 1][:100] or b"1\n"))
    return data[:place] + line * 30_000 + data[place:]


def delete_a_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def duplicate_a_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    return b"\n".join([*lines[:place], lines[place], *lines[place:]])


def swap_two_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def other_line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))


def byte_order_mark(data: bytes, rng: random.Random) -> bytes:
    mark = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe"))
    if mark == b"\xff\xfe" and rng.random() < 0.5:
        return data.decode("latin-1").encode("utf-16")
    return mark + data


def declare_an_encoding(data: bytes, rng: random.Random) -> bytes:
    named = rng.choice((b"utf-7", b"utf-16", b"shift_jis", b"cp037", b"idna", b"nobody", b"hex"))
    head = b'<?xml version="1.0" encoding="%s"?>' % named
    return re.sub(rb"^<\?xml[^>]*>", head, data) if data[:5] == b"<?xml" else head + data


def declare_entities(data: bytes, rng: random.Random) -> bytes:
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (i + 1, b"&l%d;" % i * 10) for i in range(12))
    inside = rng.choice(
        (
            b'[<!ENTITY l0 "lol">' + laughs + b"]",
            b'[<!ENTITY e SYSTEM "file:///etc/passwd">]',
            b'SYSTEM "http://127.0.0.1:1/x.dtd"',
        )
    )
    head, mark, rest = data.partition(b"?>\n")
    return (
        (head + mark + b"<!DOCTYPE x " + inside + b">\n" + rest) if mark else b"<!DOCTYPE " + data
    )


def another_json_value(data: bytes, rng: random.Random) -> bytes:
    """Puts a value of another type in the place of one, anywhere in a JSON document or line."""
    lines = data.split(b"\n") if data[:1] == b"{" and data.count(b"\n{") else [data]
    place = rng.randrange(len(lines))
    try:
        document = json.loads(lines[place])
    except ValueError:
        return another_number(data, rng)
    slots = [(None, None)]
    waiting = [document]
    while waiting and len(slots) < 3000:
        node = waiting.pop(0)
        keys = node.keys() if isinstance(node, dict) else range(len(node))
        for key in keys:
            slots.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    node, key = rng.choice(slots[:12] if rng.random() < 0.5 else slots)
    value = rng.choice(
        (
            None,
            [],
            {},
            "",
            "x",
            "\x1b[2J",
            True,
            -1,
            0,
            1.5,
            1e300,
            10**30,
            [[]],
            ["a", 1],
            {"a": []},
        )
    )
    if node is None:
        document = value
    elif rng.random() < 0.2:
        del node[key]
    else:
        node[key] = value
    lines[place] = json.dumps(document).encode()
    return b"\n".join(lines)


CHANGES: tuple[Change, ...] = (
    flip_a_bit,
    other_bytes,
    another_letter,
    truncate,
    without_its_end,
    delete_a_piece,
    duplicate_a_piece,
    swap_two_pieces,
    insert_random_bytes,
    insert_nul_bytes,
    zeros_at_the_end,
    insert_bad_utf8,
    insert_control_characters,
    another_number,
    other_number_of_8_bytes,
    nest_deeply,
    insert_a_long_line,
    insert_many_lines,
    delete_a_line,
    duplicate_a_line,
    swap_two_lines,
    other_line_ends,
    byte_order_mark,
    declare_an_encoding,
    declare_entities,
    another_json_value,
)


def _zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("inside"), data)  # of no date
    return file.getvalue()


@functools.cache
def _bomb() -> bytes:
    """Gzip that unpacks to BOMB_BYTES of zeros; made of members, so that it is made quickly."""
    return gzip.compress(bytes(1 << 24), mtime=0) * (BOMB_BYTES >> 24)


# What can stand in the place of a file: contents made of the right one, or None for no file.
REPLACEMENTS: Mapping[str, Callable[[bytes], bytes]] = {
    "an empty file": lambda data: b"",
    "an HTML page": lambda data: b"<!DOCTYPE html>\n<html><body>404 not found</body></html>\n",
    "a zip archive": _zip,
    "a picture": lambda data: b"\x89PNG\r\n\x1a\n" + data[:200],
    "the file, packed": lambda data: gzip.compress(data, mtime=0),
    "the file, unpacked": lambda data: (
        gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data * 2
    ),
    "a gzip bomb": lambda data: _bomb(),
    "a pickle that runs code": lambda data: b"cos\nsystem\n(S'touch executed'\ntR.",
}


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _dangling(path: Path) -> None:
    path.symlink_to("nothing-is-here")


NODES: Mapping[str, Callable[[Path], None]] = {
    "a symlink to itself": _loop,
    "a symlink to an endless device": _zero,
    "a symlink to nothing": _dangling,
    "a folder": Path.mkdir,
    "a pipe that nobody writes to": os.mkfifo,
    "nothing": lambda path: None,
}


def carry_out(files: Sequence[Path], rng: random.Random) -> Damage:
    """Damages one of `files`, or exchanges two."""
    path = rng.choice(files)
    content = path.read_bytes()
    drawn = rng.random()
    if drawn < 0.75:
        change = rng.choice(CHANGES)
        path.write_bytes(change(content, rng))
        return Damage(change.__name__, path)
    if drawn < 0.88:
        kind = rng.choice(list(REPLACEMENTS))
        path.write_bytes(REPLACEMENTS[kind](content))
    elif drawn < 0.96 or len(files) == 1:
        kind = rng.choice(list(NODES))
        path.unlink()
        NODES[kind](path)
    else:
        kind = "another file of the set"
        path.write_bytes(rng.choice([other for other in files if other != path]).read_bytes())
    return Damage(kind, path)
