"""Prepares or checks a data set from the command line.

    python -m lnjax.data prepare --task handwriting
    python -m lnjax.data prepare --task handwriting --config real --manual_dir /data/iam
    python -m lnjax.data check   --task handwriting --config real --manual_dir /data/iam

The data sets: handwriting (IAM-OnDB), digits (MNIST), fashion_mnist, cifar10, binarized_mnist,
captioned_images (COCO), cloze_questions (CNN), sentences (BookCorpus), and senteval (SICK, MR, CR,
SUBJ, MPQA).

`prepare` fills the cache ($LNJAX_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/lnjax), `check`
writes nothing. Both print the number of records of each split beside the expected one. Exit code 2:
the data cannot be used, the reason on stderr.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from lnjax.data.binarized_mnist import BinarizedMnist
from lnjax.data.captioned_images import CaptionedImages
from lnjax.data.cifar10 import Cifar10
from lnjax.data.cloze_questions import ClozeQuestions
from lnjax.data.digits import Digits
from lnjax.data.errors import DataError
from lnjax.data.fashion_mnist import FashionMnist
from lnjax.data.handwriting import Handwriting
from lnjax.data.preparation import cache_dir, check, prepare
from lnjax.data.sentences import Sentences
from lnjax.data.senteval import Senteval
from lnjax.terminal import printable

BUILDERS = {
    builder.name: builder
    for builder in (
        Handwriting,
        Digits,
        FashionMnist,
        Cifar10,
        BinarizedMnist,
        CaptionedImages,
        ClozeQuestions,
        Sentences,
        Senteval,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lnjax.data", description=__doc__.split("\n")[0]
    )
    parser.add_argument("command", choices=["prepare", "check"])
    parser.add_argument("--task", required=True, choices=sorted(BUILDERS), help="the data set")
    parser.add_argument("--config", default="embedded", choices=["embedded", "real"])
    parser.add_argument("--manual_dir", help="folder of the real data, for --config real")
    options = parser.parse_args(argv)
    if options.config == "real" and options.manual_dir is None:
        parser.error("--config real needs --manual_dir, the folder of the real data")
    if options.config == "embedded" and options.manual_dir is not None:
        parser.error("--manual_dir is for --config real; the config 'embedded' reads no folder")
    builder_class = BUILDERS[options.task]
    if options.config not in builder_class.EXPECTED:
        parser.error(
            f"{options.task} has no config {options.config!r}: no package ships it; give the "
            "published files with --config real --manual_dir FOLDER"
        )
    label = f"{options.task}/{options.config}"
    try:
        if options.command == "prepare":
            prepared = prepare(builder_class, options.config, manual_dir=options.manual_dir)
            counts = {split: len(records) for split, records in prepared.splits.items()}
        else:
            counts = check(builder_class, options.config, manual_dir=options.manual_dir)
    except DataError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    if not counts:
        print(f"{label} is not prepared in {cache_dir()}; `prepare` does it")
        return 0
    unit = builder_class.UNITS.get(options.config, "records")
    print_counts(label, counts, builder_class.EXPECTED[options.config], unit)
    return 0


def print_counts(
    label: str, counts: Mapping[str, int], expected: Mapping[str, int], unit: str = "records"
) -> None:
    """One line a split: records found, records expected, and the difference if there is one."""
    print(f"{label}: {unit} by split")
    for split, number in expected.items():
        found = counts.get(split, 0)
        remark = "" if found == number else f"  ({found - number:+d})"
        print(f"  {split:<12}{found:>7}  expected {number:>7}{remark}")


if __name__ == "__main__":
    sys.exit(main())
