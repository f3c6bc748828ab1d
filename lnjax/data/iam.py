"""IAM-OnDB as users have it on disk: split lists, transcriptions, pen points; or one clear refusal.

Nothing here writes. `read_tree` checks the whole tree, form by form, and returns the lines of text
of every split; `source_key` identifies a tree by the names, sizes and modification times of the
files that are read, which takes a fraction of a second where reading them takes minutes. A tree
that was moved keeps its key, one that was copied without its times is prepared anew.
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lnjax.data import source_files
from lnjax.data.errors import DataError
from lnjax.data.iam_xml import fill_gaps, read_points, read_writer
from lnjax.data.offsets import to_offsets

LISTS = {
    "train": "trainset.txt",
    "validation": "testset_v.txt",
    "validation2": "testset_t.txt",
    "test": "testset_f.txt",
}
NUM_LINES = {"train": 5364, "validation": 1438, "validation2": 1518, "test": 3859}
KNOWN_BAD = {"z01-000z": "its transcription does not belong to its lines"}
CLIP = 500.0  # raw units; greater offsets are errors of the recording
MAX_CLIPPED = 0.01  # share of the points of a split
LONGEST = 1 << 20  # bytes of a list or a transcription; published ones have up to 10,000
TREE = """\
<folder>/  (or <folder>/iam/)
  lineStrokes/a01/a01-000/a01-000u-01.xml ...   (or lineStrokes-all/lineStrokes/...)
  ascii/a01/a01-000/a01-000u.txt ...            (or ascii-all/ascii/...)
  original/a01/a01-000/strokesu.xml ...         (optional, names the writers)
  trainset.txt  testset_v.txt  testset_t.txt  testset_f.txt"""
_FORM_ID = re.compile(r"([A-Za-z]\d{1,6})-(\d{1,6})([A-Za-z]{0,6})")
_LINE_BREAK = re.compile(r"%{3,}")  # a run of these stands for a line break in some transcriptions


@dataclasses.dataclass(frozen=True)
class Form:
    """A sheet: its transcription, its lines in order, the file that names its writer (or None)."""

    id: str
    text_file: Path
    line_files: tuple[Path, ...]
    writer_file: Path | None


def read_tree(manual_dir: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Reads and checks everything; prints a note on stderr for a form that is known to be bad and
    left out.

    Args:
        manual_dir: the folder of the tree or its parent, see `TREE`.

    Returns: for each split of `LISTS` its lines in the order of the list, with `strokes` (T, 3)
        float32 (offsets in raw units, gaps filled, clipped to +-`CLIP`), `text`, `id`
        ("a01-000u-01") and `writer` ("" if unknown).
    Raises: DataError for the first thing that cannot be used.
    """
    forms, left_out = find_forms(manual_dir)
    for form in left_out:
        print(f"note: form {form} is left out: {KNOWN_BAD[form]}", file=sys.stderr)
    examples = {split: _read_split(split, of_split) for split, of_split in forms.items()}
    offsets = np.concatenate([example["strokes"][:, :2] for example in examples["train"]])
    for axis, spread in zip("xy", offsets.std(axis=0), strict=True):
        if not spread > 0:
            raise DataError(
                f"{_base(manual_dir) / LISTS['train']}: zero variance, all {axis} offsets of its "
                f"{len(examples['train'])} lines are equal; expected handwriting; check that "
                "lineStrokes holds the original files"
            )
    return examples


def source_key(manual_dir: Path | None) -> str:
    """SHA-256 over the names, sizes and modification times of the files that `read_tree` reads.

    Raises: DataError if a part of the tree is missing or the lists are not usable.
    """
    forms, _ = find_forms(manual_dir)
    base = _base(manual_dir)
    files = [base / name for name in LISTS.values()]
    for form in (form for of_split in forms.values() for form in of_split):
        files += [
            form.text_file,
            *form.line_files,
            *([form.writer_file] if form.writer_file else []),
        ]
    return source_files.key(base, files)


def find_forms(manual_dir: Path | None) -> tuple[dict[str, list[Form]], list[str]]:
    """Reads the split lists and finds the files of every form in them.

    Returns: forms by split in the order of the lists, and the ids of listed forms that are known to
        be bad.
    Raises: DataError for a missing part of the tree, an unusable list, a form in two places, forms
        without files (all of them at once).
    """
    base = _base(manual_dir)
    strokes, texts, originals = (_folder(base, n) for n in ("lineStrokes", "ascii", "original"))
    forms: dict[str, list[Form]] = {}
    left_out, missing, seen = [], [], {}
    for split, list_name in LISTS.items():
        forms[split] = []
        for number, form_id in _read_list(base / list_name):
            place = f"{list_name} line {number}"
            if form_id in seen:
                raise DataError(
                    f"{base / place}: form {form_id} is also in {seen[form_id]}; expected every "
                    "form once, in one list; remove one of the two"
                )
            seen[form_id] = place
            if form_id in KNOWN_BAD:
                left_out.append(form_id)
                continue
            series, sheet, letter = _FORM_ID.fullmatch(form_id).groups()
            folder = Path(series, f"{series}-{sheet}")
            text_file = texts / folder / f"{form_id}.txt"
            writer_file = originals and originals / folder / f"strokes{letter}.xml"
            line_files = _line_files(strokes / folder, form_id)
            if not (line_files and text_file.is_file()):
                lacking = [] if line_files else [f"{strokes / folder / form_id}-*.xml"]
                lacking += [] if text_file.is_file() else [str(text_file)]
                missing.append(f"{form_id} ({place}): no {' and no '.join(lacking)}")
                continue
            has_writer = writer_file is not None and writer_file.is_file()
            forms[split].append(
                Form(form_id, text_file, line_files, writer_file if has_writer else None)
            )
        if not forms[split] and not missing:
            raise DataError(
                f"{base / list_name} line 1: no form is listed; expected one id a line, such as "
                "a01-000u; restore this file from the database's archive"
            )
    if missing:
        raise DataError(
            f"{base}: {len(missing)} listed forms are not on disk: {'; '.join(missing)}; "
            "unpack the missing archives or take these forms out of the lists"
        )
    return forms, left_out


def read_transcription(path: Path, num_lines: int) -> list[str]:
    """The `num_lines` lines of text after "CSR:".

    Blank lines do not count, and a run of % is a line break.

    Raises: DataError with the line number if "CSR:" is absent, a line is empty, or the number of
        lines is another.
    """
    source_files.refuse_larger(path, LONGEST)
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as the XML files declare
    lines = re.split(r"\r\n|\r|\n", text)
    marker = next((i for i, line in enumerate(lines) if line.strip() == "CSR:"), None)
    if marker is None:
        raise DataError(
            f'{path} line {len(lines)}: no line "CSR:" up to the end of the file; expected the '
            "corrected transcription after it; restore this file from the database's archive"
        )
    pieces = []
    for number, line in enumerate(lines[marker + 1 :], start=marker + 2):
        parts = [part.strip() for part in _LINE_BREAK.split(line)]
        pieces += [(number, part) for part in parts if part or len(parts) == 1]
    while pieces and not pieces[-1][1]:
        pieces.pop()
    if pieces and not pieces[0][1]:
        pieces.pop(0)
    written = [(number, piece) for number, piece in pieces if piece]
    if len(written) == num_lines:
        return [piece for _, piece in written]
    blanks = [number for number, piece in pieces if not piece]
    if not written or len(pieces) == num_lines:
        raise DataError(
            f"{path} line {(blanks or [marker + 1])[0]}: empty text for a line; expected the words "
            f"of each of the {num_lines} lines of pen points; restore this file from the archive"
        )
    raise DataError(
        f"{path} line {written[-1][0]}: {len(written)} lines of text after CSR:; expected "
        f"{num_lines}, one for each XML file of this form; restore the form's files or take the "
        "form out of its list"
    )


def _read_split(split: str, forms: list[Form]) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = []
    num_clipped = num_points = 0
    worst = (0.0, "")
    for form in forms:
        writer = read_writer(form.writer_file) if form.writer_file else ""
        texts = read_transcription(form.text_file, len(form.line_files))
        for text, path in zip(texts, form.line_files, strict=True):
            strokes = to_offsets(*fill_gaps(read_points(path)))
            clipped = int((np.abs(strokes[:, :2]) > CLIP).any(axis=1).sum())
            num_clipped += clipped
            num_points += len(strokes)
            worst = max(worst, (clipped / len(strokes), str(path)))
            np.clip(strokes[:, :2], -CLIP, CLIP, out=strokes[:, :2])
            examples.append({"strokes": strokes, "text": text, "id": path.stem, "writer": writer})
    if num_clipped > MAX_CLIPPED * num_points:
        raise DataError(
            f"{worst[1]}: {worst[0]:.1%} of its offsets exceed {CLIP:g} units, and "
            f"{num_clipped / num_points:.1%} in the whole split {split!r}; expected at most "
            f"{MAX_CLIPPED:.0%}; check that the points are in the whiteboard's own units"
        )
    return examples


def _base(manual_dir: Path | None) -> Path:
    """The folder that holds the lists; DataError with the expected tree if a part is missing."""
    if manual_dir is None:
        raise DataError(
            "handwriting/real: no folder was given (in training: --config.data_dir);"
            f" expected the one of IAM-OnDB:\n{TREE}"
        )
    base = manual_dir / "iam" if (manual_dir / "iam").is_dir() else manual_dir
    missing = [name for name in ("lineStrokes", "ascii") if _folder(base, name) is None]
    missing += [name for name in LISTS.values() if not (base / name).is_file()]
    if missing:
        raise DataError(f"{base}: {', '.join(missing)} not found; expected this tree:\n{TREE}")
    return base


def _folder(base: Path, name: str) -> Path | None:
    """<base>/<name>, or the same inside a folder that the archive brought, such as <name>-all."""
    inside = sorted(path for path in base.glob(f"{name}*/{name}") if path.is_dir())
    return (*inside, base / name)[0] if inside or (base / name).is_dir() else None


def _read_list(path: Path) -> list[tuple[int, str]]:
    """The (line number, form id) of a split list; blank lines are skipped."""
    found = []
    source_files.refuse_larger(path, LONGEST)
    lines = path.read_text(encoding="latin-1").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            if not _FORM_ID.fullmatch(line.strip()):
                raise DataError(
                    f"{path} line {number}: {line.strip()[:60]!r} is no form; expected an id such "
                    "as a01-000u; restore this file from the database's archive"
                )
            found.append((number, line.strip()))
    return found


def _line_files(folder: Path, form_id: str) -> tuple[Path, ...]:
    """The XML files of a form by the number at the end of their names."""
    found = {}
    for path in folder.glob(f"{form_id}-*.xml"):
        number = path.stem.removeprefix(f"{form_id}-")
        if number.isdecimal():
            found[int(number)] = path
    return tuple(found[number] for number in sorted(found))
