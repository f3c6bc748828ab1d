"""The table of a comparison, in Markdown, from its record alone."""

import math
import re
from collections.abc import Sequence

from lnjax.comparison import measures
from lnjax.comparison.results import Json, comparable, finished, number, rivals
from lnjax.terminal import printable

NOT_COMPARABLE = "embedded data: not comparable"


def table(results: Json) -> str:
    """Everything that `table.md` holds: one section for each part, one table for each panel."""
    return "\n".join([f"# {plain(results['title'])}", "", *map(_part, results["parts"])])


def _part(part: Json) -> str:
    where = f" ({NOT_COMPARABLE} with the paper)" if not comparable(part) else ""
    lines = [f"## {plain(part['config'])} on {plain(part['data'])}{where}", ""]
    for panel in part["panels"]:
        metric = plain(panel["metric"]).replace("`", "'")
        lines += [f"### {plain(panel['label'])} (`{metric}`, {panel['better']} is better)", ""]
        lines += [*_finals(part, panel), "", *_speeds(part, panel), ""]
    lines += _remarks(part)
    return "\n".join(lines)


def _finals(part: Json, panel: Json) -> list[str]:
    """One row per arm: where it ends, its best, and what the paper says."""
    rows = []
    for arm in part["arms"]:
        curves = list(finished(arm, panel).values())
        last = measures.mean([curve.values[-1] for curve in curves])
        best = measures.mean([measures.best(curve, panel["better"])[0] for curve in curves])
        seconds = measures.mean([curve.seconds[-1] for curve in curves])
        rows.append(
            [
                arm["name"],
                f"{len(curves)} of {len(arm['runs'])}",
                with_error(last),
                with_error(best),
                number(seconds.value, 3),
                paper(part, arm, panel),
            ]
        )
    head = ["arm", "seeds", "at the end", "best", "seconds", "paper"]
    return markdown(head, rows)


def _speeds(part: Json, panel: Json) -> list[str]:
    """One row per pair: how much of the rival's way the challenger needs.

    Where it does not arrive, a row more: how much of its way the rival needs.
    """
    rows = []
    for one, other in rivals(part["arms"]):
        row, arrives = _speed(panel, one, other)
        rows += [row] if arrives else [row, _speed(panel, other, one)[0]]
    if not rows:
        return []
    head = ["to the best value of the rival", "of its steps", "of its seconds", "seeds that arrive"]
    return markdown([*head, "difference at the end"], rows)


def _speed(panel: Json, one: Json, other: Json) -> tuple[list[str], bool]:
    """The row of a pair, and whether half of the challenger's seeds arrive."""
    mine, theirs = finished(one, panel), finished(other, panel)
    pairs = [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]
    row = [f"{one['name']} : {other['name']}"]
    for of in ("steps", "seconds"):
        speed = measures.speed(pairs, panel["better"], of=of)
        row.append(f"{number(speed.ratio, 3)} ({interval(speed)})")
    speed = measures.speed(pairs, panel["better"])
    differences = [a.values[-1] - b.values[-1] for a, b in pairs]
    row += [f"{speed.arrived} of {speed.pairs}", with_error(measures.mean(differences))]
    return row, not math.isinf(speed.ratio)


def _remarks(part: Json) -> list[str]:
    """What a reader of the table must know: runs that are missing, and rates that were chosen."""
    lines = []
    for arm in part["arms"]:
        for run in arm["runs"]:
            if run["status"] != "done":
                lines.append(
                    f"* {plain(arm['name'])}, seed {run['seed']}: {run['status']} at {run['step']}"
                )
        if arm.get("tuned"):
            tuned = arm["tuned"]
            tried = "; ".join(
                f"{plain(name)}: {'not finite' if found is None else number(found)}"
                for name, found in tuned["tried"].items()
            )
            lines.append(
                f"* {plain(arm['name'])}: {plain(tuned['name'])} was the best of {tried}"
                f" ({plain(tuned['metric'])} after {tuned['steps']} steps, seed {tuned['seed']})"
                + "".join(f"; {plain(key)} is the {end} tried" for key, end in _at_the_edge(tuned))
            )
    return [*lines, ""] if lines else []


def _at_the_edge(tuned: Json) -> list[tuple[str, str]]:
    """The keys whose chosen number was the lowest or the highest of its own: better may lie beyond.

    >>> tried = {"a=1,b=x": 0.1, "a=2,b=x": 0.2, "a=3,b=x": None}
    >>> _at_the_edge({"chosen": {"a": "1", "b": "x"}, "tried": tried})
    [('a', 'lowest')]
    """
    found = []
    for key, chosen in tuned["chosen"].items():
        parts = [part.partition("=") for name in tuned["tried"] for part in name.split(",")]
        try:
            values = {float(value) for name, _, value in parts if name == key}
            ends = {min(values): "lowest", max(values): "highest"}
        except ValueError:  # words have no order
            continue
        if len(values) > 1 and float(chosen) in ends:
            found.append((key, ends[float(chosen)]))
    return found


def paper(part: Json, arm: Json, panel: Json) -> str:
    """The paper's number, with where it stands; or why there is none to compare with."""
    found = part.get("paper", {}).get(arm["name"], {}).get(panel["metric"])
    if found is None:
        return "-"
    value, where = found
    text = f"{number(value)} ({where})"
    return text if comparable(part) else f"{text}; {NOT_COMPARABLE}"


def with_error(mean: measures.Mean) -> str:
    """A mean with its standard error, where there is one."""
    if math.isnan(mean.error):
        return number(mean.value)
    return f"{number(mean.value)} ± {number(mean.error, 2)}"


def interval(speed: measures.Speed) -> str:
    """The ends of a bootstrap interval; of one pair there is none."""
    if speed.pairs < 2:
        return "one seed"
    return f"{number(speed.low, 3)} to {number(speed.high, 3)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table of plain text."""
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(map(plain, row))} |" for row in rows),
    ]


def plain(text: str) -> str:
    """`text` for Markdown, in which no character of it means anything: no HTML, link or line.

    >>> print(plain("<b>|`x`[a](b)"))
    \\<b\\>\\|\\`x\\`\\[a\\](b)
    """
    shown = printable(text.replace("\n", " ").replace("\t", " "))
    return re.sub(r"([\\`*\[\]<>|&]|(?<!\w)_|_(?!\w))", r"\\\1", shown)
