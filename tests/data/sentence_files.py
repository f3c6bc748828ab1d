"""Writes the sentence-evaluation sets, small, in the form of the published files."""

from lnjax.data import polarity, sick

SICK_COUNTS = {"train": 12, "trial": 6, "test": 8}
FIVE = ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")
TWELVE = (  # of the edition in one file
    *("pair_ID", "sentence_A", "sentence_B", "entailment_label", "relatedness_score"),
    *("entailment_AB", "entailment_BA", "sentence_A_original", "sentence_B_original"),
    *("sentence_A_dataset", "sentence_B_dataset", "SemEval_set"),
)
SIZES = {"mr": (12, 12), "cr": (13, 10), "subj": (11, 11), "mpqa": (10, 14)}
# The bytes of MR: Windows-1252 for an accented letter, a dash and an ellipsis.
SPECIAL = {"mr": "a caf\u00e9 film \u2013 with a dash \u2026 and more"}


def sick_row(split, number):
    """By name of the column, a made-up pair; scores run through the range, to one decimal."""
    pair = str(1000 * list(SICK_COUNTS).index(split) + number + 1)
    return {
        "pair_ID": pair,
        "sentence_A": f"A man {pair} is playing a guitar",
        "sentence_B": f"A guitar {pair} is being played",
        "relatedness_score": str([1, 5, 3.4, 4.75, 2.9][number % 5]),
        "entailment_judgment": sick.JUDGMENTS[number % 3],
        "entailment_label": sick.JUDGMENTS[number % 3],
        "SemEval_set": split.upper(),
    }


def sentences_of(name, label):
    number = SIZES[name][polarity.CLASSES.index(label)]
    found = [f"the {label} sentence {i} of {name} ." for i in range(number)]
    return [SPECIAL.get(name, found[0]), *found[1:]] if label == "positive" else found


class SentevalFolder:
    """A folder of all five sets; the readers are told its sizes."""

    def __init__(self, base, monkeypatch, columns=FIVE, encoding="cp1252"):
        self.base, self.columns, self.encoding = base, columns, encoding
        base.mkdir(parents=True)
        for split in SICK_COUNTS:
            self.write_sick(split)
        for name in SIZES:
            for label in polarity.CLASSES:
                lines = sentences_of(name, label)
                if name in polarity.BLANK_LINES:
                    lines = ["", *lines[:3], "  ", *lines[3:], ""]
                self.write(self.path(name, label), lines)
        monkeypatch.setattr(sick, "COUNTS", {split: (n,) for split, n in SICK_COUNTS.items()})
        exactly = {name: SIZES[name][0] for name in polarity.EXACTLY}
        monkeypatch.setattr(polarity, "EXACTLY", exactly)

    def path(self, name, part):
        files = sick.FILES if name == "sick" else polarity.FILES[name]
        return self.base / (files[part] if name == "sick" else files[part][0])

    def write(self, path, lines, end="\n"):
        path.write_bytes("".join(line + end for line in lines).encode(self.encoding))

    def write_sick(self, split, end="\n"):
        rows = [sick_row(split, number) for number in range(SICK_COUNTS[split])]
        lines = ["\t".join(self.columns)]
        lines += ["\t".join(row.get(column, "x") for column in self.columns) for row in rows]
        self.write(self.path("sick", split), lines, end)

    def edit(self, name, part, number, change):
        """Replaces line `number` (from 1), without its end, by change(line), both bytes."""
        path = self.path(name, part)
        lines = path.read_bytes().split(b"\n")
        lines[number - 1] = change(lines[number - 1])
        path.write_bytes(b"\n".join(lines))
        return path
