"""`report.html`: a comparison as one page, with curves to hover over, that needs no other file.

The page is `page/report.html` filled in by Jinja, which escapes every value. Its tables are
`table.md` read back, so that both say the same. The curves are drawn in the browser by Plotly,
whose code is a part of the page. The page's policy (Content-Security-Policy) lets the browser fetch
nothing, and run no script but Plotly and `page/report.js`: both are named by their SHA-256.
"""

import base64
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lnjax.comparison import colours, tables
from lnjax.comparison.measures import Curve
from lnjax.comparison.results import Json, Spread, comparable, curve, finished, spread
from lnjax.training import manifest

_PAGE = pathlib.Path(__file__).with_name("page")
_FIGURE = "figure.svg"  # of the same folder: what is seen where no script runs
_DIGITS = 6  # significant ones in the page; a label shows 4


def write(path: pathlib.Path, results: Json, base: pathlib.Path) -> None:
    """Writes the report of a comparison, atomically.

    Args:
      path: of the page.
      results: the record; see `lnjax.comparison.results`.
      base: folder of the comparison. The sheets of samples, and `figure.svg` if it is there, are
        read from it and become parts of the page.
    """
    manifest.write_text(path, render(results, base))


def render(results: Json, base: pathlib.Path) -> str:
    """The page itself; arguments as of `write`."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["listed"] = listed
    scripts = [get_plotlyjs(), (_PAGE / "report.js").read_text("utf-8")]
    texts = _sections(tables.table(results), "## ")[1:]
    parts = [_part(part, text, base) for part, text in zip(results["parts"], texts, strict=True)]
    return environment.get_template("report.html").render(
        title=results["title"],
        scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
        style=Markup((_PAGE / "report.css").read_text("utf-8")),
        figure=_data_uri(base, _FIGURE, "image/svg+xml"),
        facts=_facts(results),
        parts=parts,
    )


# ------------------------------------------------------------------ curves


def chart(part: Json, panel: Json) -> Json:
    """Everything that `report.js` draws of one metric, JSON-ready."""
    looks, arms = _looks(part), []
    for arm, look in zip(part["arms"], looks, strict=True):
        over_seeds = spread(arm, panel)
        lost = [
            {"seed": run["seed"], "status": run["status"], "step": run["step"]} | _rounded(found)
            for run in arm["runs"]
            if run["status"] != "done" and (found := curve(run, panel["metric"])) is not None
        ]
        rounded = _rounded(over_seeds) if over_seeds else None
        arms.append(
            {**look, "seeds": sorted(finished(arm, panel)), "spread": rounded, "lost": lost}
        )
    return {
        "label": panel["label"],
        "log_y": panel["scale"] == "log",
        "log_x": panel["x_scale"] == "log",
        "x": part["axis"]["x"],
        "steps_per_x": part["axis"]["steps_per_x"],
        "arms": arms,
    }


def _looks(part: Json) -> list[Json]:
    """Name, colour and dashes of each arm."""
    arms = part["arms"]
    return [
        {"name": arm["name"], "colour": colours.colour(arm, index), "dashes": list(dashes)}
        for index, (arm, dashes) in enumerate(zip(arms, colours.dashes(arms), strict=True))
    ]


def _rounded(arrays: Spread | Curve) -> dict[str, list]:
    """The arrays as lists, rounded: most of what the page itself weighs is in them."""

    def values(array: np.ndarray) -> list:
        if array.ndim > 1:
            return [values(row) for row in array]
        return [float(f"{value:.{_DIGITS}g}") for value in array]

    return {name: values(array) for name, array in arrays._asdict().items()}


# ------------------------------------------------------------------ the parts of the page


def _part(part: Json, text: str, base: pathlib.Path) -> Json:
    """What the page says of one config with its arms; `text` is its section of the table."""
    heading, *sections = _sections(text, "### ")
    panels = [
        {
            "heading": _heading(section),
            "tables": _block(section.partition("\n")[2]),
            "chart": chart(part, panel) if panel["drawn"] else None,
            "label": panel["label"],
            "better": panel["better"],
        }
        for panel, section in zip(part["panels"], sections, strict=True)
    ]
    runs = [(arm, run) for arm in part["arms"] for run in arm["runs"]]
    seeds = sorted({run["seed"] for _, run in runs})
    same, differing = _manifests(runs)
    return {
        "config": part["config"],
        "data": part["data"],
        "comparable": comparable(part),
        "heading": _heading(heading),
        "arms": _looks(part),
        "seeds": seeds,
        "x": part["axis"]["x"],
        "panels": panels,
        "missing": [
            {"arm": arm["name"], "of": part["keys"].get("num_steps"), **run}
            for arm, run in runs
            if run["status"] != "done"
        ],
        "runs": len(runs),
        "samples": [row for seed in seeds if (row := _samples(runs, seed, base))],
        "config_keys": _keys(part),
        "same": same,
        "differing": differing,
    }


def _samples(runs: Sequence[tuple[Json, Json]], seed: int, base: pathlib.Path) -> Json | None:
    """The sheets of one seed, an entry for each arm; None if no arm has one."""
    sheets = []
    for arm, run in runs:
        if run["seed"] == seed:
            path = run["sheet"]
            sheets.append(
                {
                    "arm": arm["name"],
                    "seed": seed,
                    "status": run["status"],
                    "at": int(pathlib.PurePosixPath(path).stem) if path else None,
                    "uri": _data_uri(base, path, "image/png") if path else None,
                }
            )
    return {"seed": seed, "sheets": sheets} if any(each["at"] for each in sheets) else None


def _keys(part: Json) -> list[Json]:
    """Every key of the config, with what the arms have in its place."""
    arms, rows = part["arms"], []
    tuned = {arm["name"]: arm["tuned"] for arm in arms if arm.get("tuned")}
    added = {key: "-" for arm in arms for key in arm["changes"]}
    added |= {key: "-" for found in tuned.values() for key in found["chosen"]}
    for key, value in sorted((added | _flat(part["keys"])).items()):
        in_arms = [str(arm["changes"][key]) for arm in arms if key in arm["changes"]]
        in_arms = list(dict.fromkeys(in_arms))
        in_arms += [
            f"{name}: {found['chosen'][key]}"
            for name, found in tuned.items()
            if key in found["chosen"]
        ]
        rows.append({"key": key, "value": _text(value), "arms": in_arms})
    return rows


def _manifests(runs: Sequence[tuple[Json, Json]]) -> tuple[list[tuple[str, str]], Json]:
    """What the manifests of the runs say alike, and a table of the rest, one row a run."""
    flat = [{k: _text(v) for k, v in _flat(run["manifest"]).items()} for _, run in runs]
    told = [each for each in flat if each]  # a run that has not begun has none
    keys = list(dict.fromkeys(key for each in told for key in each))
    same = [(key, told[0][key]) for key in keys if len({each.get(key) for each in told}) == 1]
    rest = [key for key in keys if key not in dict(same) and key != "seed"]
    rows = [
        [
            arm["name"],
            run["seed"],
            run["status"],
            run["step"],
            *(each.get(key, "-") for key in rest),
        ]
        for (arm, run), each in zip(runs, flat, strict=True)
    ]
    return same, {"head": ["arm", "seed", "status", "step", *rest], "rows": rows}


def _facts(results: Json) -> list[tuple[str, list[str]]]:
    """What was trained, on what, with what: each a name and one line or more."""
    runs = [run for part in results["parts"] for arm in part["arms"] for run in arm["runs"]]
    told = [run["manifest"] for run in runs if run["manifest"]]
    days = sorted({each["start_time"][:10] for each in told})
    machine = _flat(results["machine"])
    facts = {
        "Data": [f"{part['data']}{_data_version(part)}" for part in results["parts"]],
        "Machine": [f"{key}: {_text(value)}" for key, value in machine.items()],
        "Devices": [f"{each['device_count']} x {each['device_kind']}" for each in told],
        "Versions": [_versions(each) for each in told],
        "Commit": [_commit(each["git"]) for each in told],
        "Trained": [" to ".join(dict.fromkeys([days[0], days[-1]]))] if days else [],
    }
    return [(name, _counted(lines)) for name, lines in facts.items() if lines]


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "not trained from a checkout"
    return git["commit"] + (", with changes that are in no commit" if git["dirty"] else "")


def _versions(told: Mapping[str, Any]) -> str:
    packages = {"Python": told["python"], **told["versions"]}
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def _data_version(part: Json) -> str:
    """Version and digest of the data of a part, as far as its first manifest has them."""
    found = (run["manifest"].get("data") for arm in part["arms"] for run in arm["runs"])
    data = next(filter(None, found), {})
    version = f" {data['version']}" if "version" in data else ""
    return version + (f" ({data['digest'][:12]})" if "digest" in data else "")


# ------------------------------------------------------------------ text


def listed(names: Sequence[Any]) -> str:
    """Names in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed([0, 1, 2, 3])
    ('a', 'a, b and c', '0 to 3')
    """
    if len(names) > 2 and all(isinstance(name, int) for name in names):
        if list(names) == list(range(names[0], names[-1] + 1)):
            return f"{names[0]} to {names[-1]}"
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last


def _sections(text: str, mark: str) -> list[str]:
    """The text before the first line that begins with `mark`, and from each such line on."""
    return re.split(f"^(?={mark})", text, flags=re.MULTILINE)


@functools.cache
def _markdown() -> Any:
    """A reader of what `tables` writes and nothing else: names of arms hold no links, no HTML."""
    from markdown_it import MarkdownIt

    return MarkdownIt("zero").enable(["table", "list", "backticks", "escape"])


def _heading(section: str) -> Any:
    """Its first line as HTML, without the mark."""
    from markupsafe import Markup

    return Markup(_markdown().renderInline(section.partition("\n")[0].lstrip("# ")))


def _block(text: str) -> Any:
    """Tables and lists as HTML; the first cell of a row is its heading."""
    from markupsafe import Markup

    reader = _markdown()
    tokens = reader.parse(text)
    first = False
    for token in tokens:
        if token.type == "tr_open":
            first = True
        elif token.type == "th_open":
            token.attrs = {"scope": "col"}
        elif token.type == "td_open" and first:
            token.tag, token.attrs = "th", {"scope": "row"}
        elif token.type == "td_close" and first:
            token.tag, first = "th", False
    html = reader.renderer.render(tokens, reader.options, {})
    opened = '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>'
    return Markup(html.replace("<table>", opened).replace("</table>", "</table></div>"))


def _counted(lines: Iterable[str]) -> list[str]:
    """Each line once, with how often it is there if there are several."""
    count: dict[str, int] = {}
    for line in lines:
        count[line] = count.get(line, 0) + 1
    several = len(count) > 1 and max(count.values()) > 1
    return [f"{line} ({number} runs)" if several else line for line, number in count.items()]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested objects, by their keys with dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data_uri(base: pathlib.Path, name: str, kind: str) -> str | None:
    """A file below `base` as a part of the page; None if it is not there, or leads out of it."""
    path = base / name
    # A page is made to be shown around: nothing else of the disk may come into it.
    if not path.is_file() or not path.resolve().is_relative_to(base.resolve()):
        return None
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
