"""The report says what the record says, needs nothing but itself, and is drawn by a browser."""

import base64
import hashlib
import html
import html.parser
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lnjax.comparison import colours, report, results, tables
from tests.comparison import records

VOID = {"meta", "img", "input", "line"}
EVIL = """</script><script>alert("1")</script><img src=x onerror='alert(2)'>&amp;`*_[a](b)"""


class Page(html.parser.HTMLParser):
    """The elements of a page in order: attributes by name, with "tag", "text" and "inside"."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[dict] = []
        self.open: list[dict] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "inside": list(self.open), **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> ends {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        """Those of a tag; `class` is given as `kind`."""
        if "kind" in attributes:
            attributes["class"] = attributes.pop("kind")
        return [
            each
            for each in self.elements
            if each["tag"] == tag and attributes.items() <= each.items()
        ]

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [" ".join(each["text"].split()) for each in self.all(tag, **attributes)]

    def cells(self, row: dict) -> list[str]:
        """What stands in a row of a table."""
        inside = [each for each in self.elements if row in each["inside"]]
        return [" ".join(e["text"].split()) for e in inside if e["tag"] in ("th", "td")]

    def charts(self) -> list[dict]:
        return [json.loads(each["text"]) for each in self.all("script", type="application/json")]


def small(**values) -> records.Json:
    """A record of one part: two arms of two seeds, three points each."""
    panel = records.PANELS[0]
    arms = [
        records.arm(
            {"norm": norm},
            [
                records.run(f"norm={norm}", seed, {panel["metric"]: [3.0, 2.0, last]})
                for seed, last in enumerate((1.0, 0.5))
            ],
        )
        for norm in ("layer", "none")
    ]
    return records.results(records.part(arms, **{"panels": [panel], **values}))


def rendered(record: records.Json, base: Path) -> Page:
    return Page(report.render(record, base))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def record(base) -> records.Json:
    made = records.comparison()
    records.draw_sheets(made, base)
    return made


@pytest.fixture(scope="module")
def text(base, record) -> str:
    report.write(base / "report.html", record, base)
    return (base / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


# ------------------------------------------------------------------ the numbers


def test_the_tables_are_those_of_table_md(page, record):
    lines = tables.table(record).splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.startswith("|-")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    assert len(cells) == 2 * (4 + 3) + 2 * (5 + 3)
    inside = [
        page.cells(row)
        for row in page.all("tr")
        if any(each.get("class") == "panel" for each in row["inside"])
    ]
    assert inside == cells
    for mark, tag in (("# ", "h1"), ("## ", "h2"), ("### ", "h3"), ("* ", "li")):
        expected = [
            line.removeprefix(mark).replace("`", "") for line in lines if line.startswith(mark)
        ]
        assert expected and set(expected) <= set(page.texts(tag))


def test_spread_is_over_the_finished_seeds_where_all_have_a_value():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 6)).tolist()
    values[1][2] = None  # a loss that was not finite, and an update that was skipped
    statuses = ("done", "done", "done", "unfinished")
    runs = [
        records.run("a", seed, {"train/nll": each}, status=status, step_seconds=0.1 * (seed + 1))
        for seed, (each, status) in enumerate(zip(values, statuses, strict=True))
    ]
    found = results.spread(records.arm({"norm": "none"}, runs), records.PANELS[0])
    assert found is not None
    places = [0, 1, 3, 4, 5]
    assert found.steps.tolist() == [10 * (i + 1) for i in places]
    for at, i in enumerate(places):
        of_seeds = [values[seed][i] for seed in range(3)]
        assert found.mean[at] == pytest.approx(sum(of_seeds) / 3)
        assert (found.low[at], found.high[at]) == (min(of_seeds), max(of_seeds))
        assert found.seconds[at] == pytest.approx(10 * (i + 1) * (0.1 + 0.2 + 0.3) / 3)
        assert found.each[:, at].tolist() == of_seeds


def test_an_arm_without_a_finished_seed_has_no_spread():
    runs = [records.run("a", 0, {"train/nll": [1.0, 2.0]}, status="not finite")]
    assert results.spread(records.arm({"norm": "none"}, runs), records.PANELS[0]) is None


def test_charts_hold_every_curve_of_the_record(page, record):
    charts = iter(page.charts())
    for part in record["parts"]:
        for panel in part["panels"]:
            chart = next(charts)
            assert (chart["log_y"], chart["log_x"]) == (
                panel["scale"] == "log",
                panel["x_scale"] == "log",
            )
            assert {"x": chart["x"], "steps_per_x": chart["steps_per_x"]} == part["axis"]
            for index, (arm, drawn) in enumerate(zip(part["arms"], chart["arms"], strict=True)):
                assert drawn["name"] == arm["name"]
                assert drawn["colour"] == colours.colour(arm, index)
                done = [run for run in arm["runs"] if run["status"] == "done"]
                lost = [run for run in arm["runs"] if run["status"] != "done"]
                assert drawn["seeds"] == [run["seed"] for run in done]
                for run, curve in zip(
                    done + lost,
                    [*drawn["spread"]["each"], *(each["values"] for each in drawn["lost"])],
                    strict=True,
                ):
                    values = [
                        line[panel["metric"]] for line in run["lines"] if panel["metric"] in line
                    ]
                    np.testing.assert_allclose(curve, values, rtol=1e-5)
    assert next(charts, None) is None


def test_panels_that_are_not_drawn_have_a_table_and_no_chart(tmp_path):
    panels = [{**records.PANELS[0], "drawn": drawn} for drawn in (True, False)]
    page = rendered(small(panels=panels), tmp_path)
    assert len(page.charts()) == 1 and len(page.all("section", kind="panel")) == 2


# ------------------------------------------------------------------ what else it says


def test_runs_that_did_not_finish_are_named_first(page):
    (warning,) = page.all("section", kind="warning")
    assert "2 of 27 runs" in warning["text"]
    items = [" ".join(e["text"].split()) for e in page.all("li") if warning in e["inside"]]
    assert items == [
        "norm=batch, seed 4 (configs/pi_mnist.py): unfinished at step 300 of 400",
        "norm=none, seed 1 (configs/pi_mnist.py): not finite at step 200 of 400",
    ]


def test_nothing_is_warned_of_where_all_finished(tmp_path):
    assert rendered(small(), tmp_path).all("section", kind="warning") == []


def test_every_arm_is_named_and_can_be_toggled(page, record):
    leads = page.texts("p", kind="lead")
    assert leads[0] == (
        "configs/pi_mnist.py on digits/embedded: 3 arms (norm=layer, norm=batch, norm=none),"
        " seeds 0 to 4 of each."
    )
    sections = page.all("section", kind="part")
    for section, lead, part in zip(sections, leads, record["parts"], strict=False):
        names = [arm["name"] for arm in part["arms"]]
        labels = [
            next(e for e in reversed(box["inside"]) if e["tag"] == "label")
            for box in page.all("input", name="arm")
            if section in box["inside"]
        ]
        assert [label["text"].strip() for label in labels] == names
        assert all(name in lead for name in names)
        drawn = [line["stroke"] for line in page.all("line") if section in line["inside"]]
        assert drawn == [colours.colour(arm, index) for index, arm in enumerate(part["arms"])]


def test_it_says_when_the_papers_numbers_do_not_compare(tmp_path):
    words = "not to be compared"
    for data, expected in (("digits/embedded", True), ("mnist/real", False)):
        page = rendered(small(data=data), tmp_path)
        assert any(words in lead for lead in page.texts("p", kind="lead")) == expected


def test_samples_of_all_arms_stand_beside_each_other(page, record, base):
    sheets = [each for each in page.all("img") if each.get("alt")]
    at = 0
    for part in record["parts"]:
        for seed in range(len(part["arms"][0]["runs"])):
            for arm in part["arms"]:
                (run,) = [run for run in arm["runs"] if run["seed"] == seed]
                alt = f"samples of {arm['name']}, seed {seed}, at step {run['step']}"
                assert sheets[at]["alt"] == alt
                content = sheets[at]["src"].removeprefix("data:image/png;base64,")
                assert base64.b64decode(content) == (base / run["sheet"]).read_bytes()
                at += 1
    assert at == len(sheets) == 27


def test_sheets_that_are_not_there_are_said_not_to_be(tmp_path):
    record = small()
    assert rendered(record, tmp_path).all("section", kind="samples") == []
    records.draw_sheets(record, tmp_path)
    first, second = (arm["runs"][0] for arm in record["parts"][0]["arms"])
    (tmp_path / first["sheet"]).unlink()
    second["sheet"] = None
    page = rendered(record, tmp_path)
    assert len(page.all("img", alt="")) == 1 and len(page.all("img")) == 1 + 2
    assert page.texts("p", kind="none").count("no sheet of samples") == 2


def test_the_config_is_whole_and_what_the_arms_change_is_marked(tmp_path):
    record = small(keys={"norm": "layer", "mesh": {"data": 1}, "note": None, "num_steps": 30})
    tuned = {"name": "learning_rate=0.1", "chosen": {"learning_rate": "0.1"}, "steps": 30}
    tuned |= {"tried": {"learning_rate=0.1": 1.0}, "metric": "m", "seed": 9}
    record["parts"][0]["arms"][1]["tuned"] = tuned
    page = rendered(record, tmp_path)
    assert [page.cells(row)[0] for row in page.all("tr", kind="changed")] == [
        "learning_rate",
        "norm",
    ]
    assert len(page.all("mark")) == 2
    table = {cells[0]: cells[1:] for cells in map(page.cells, page.all("tr"))}
    assert table["mesh.data"] == ["1", ""] and table["note"] == ["null", ""]
    assert table["norm"] == ["layer", "changed layer · none"]
    assert table["learning_rate"] == ["-", "changed norm=none: 0.1"]


def test_machines_versions_and_commits_are_told_once_or_counted(tmp_path):
    record = small()
    runs = [run for arm in record["parts"][0]["arms"] for run in arm["runs"]]

    def facts() -> dict[str, list[str]]:
        page = rendered(record, tmp_path)
        found: dict[str, list[str]] = {}
        for each in page.elements:
            if each["tag"] == "dt":
                found[each["text"]] = []
            elif each["tag"] == "dd":
                found[list(found)[-1]].append(each["text"])
        return found

    commit = runs[0]["manifest"]["git"]["commit"]
    told = facts()
    assert told["Commit"] == [commit]
    assert told["Versions"] == ["Python 3.11.7, lnjax 0.1.0, jax 0.10.2, flax 0.12.8, numpy 2.4.6"]
    assert told["Machine"] == ["cpu: a processor of 2.1 GHz", "cores: 2", "memory: 24 GiB"]
    assert told["Trained"] == ["2026-11-21"]
    assert told["Data"] == ["digits/embedded 1.0.0 (151515151515)"]

    runs[0]["manifest"]["git"]["dirty"] = True
    runs[1]["manifest"]["git"] = None
    runs[1]["manifest"]["start_time"] = "2026-11-23T00:00:00+00:00"
    runs[2]["manifest"] = {}
    told = facts()
    assert told["Commit"] == [
        f"{commit}, with changes that are in no commit",
        "not trained from a checkout",
        commit,
    ]
    assert told["Trained"] == ["2026-11-21 to 2026-11-23"]
    runs[3]["manifest"]["git"] = None
    assert facts()["Commit"][1] == "not trained from a checkout (2 runs)"


def test_manifests_are_told_in_common_and_apart(page, record):
    rows = [page.cells(row) for row in page.all("tr")]
    assert ["device_kind", "cpu"] in rows
    assert ["arm", "seed", "status", "step", "command", "start_time"] in rows
    for part in record["parts"]:
        for arm in part["arms"]:
            for run in arm["runs"]:
                told = run["manifest"]
                row = [arm["name"], str(run["seed"]), run["status"], str(run["step"])]
                assert [*row, told["command"], told["start_time"]] in rows


# ------------------------------------------------------------------ the page


def test_it_needs_no_other_file(page):
    for each in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert each.get(name, "#").startswith(("data:image/png;base64,", "#")), each
        assert each["tag"] not in ("link", "iframe", "object", "embed", "base")
        assert not re.search(r"url\(|@import|https?:", each.get("style", ""))
    (style,) = page.texts("style")
    assert not re.search(r"url\(|@import|https?:", style)
    plotly, own = [each["text"] for each in page.all("script") if "type" not in each]
    assert plotly.lstrip("/* \n").startswith("plotly.js v")
    assert not re.search(r"https?:|import\(|fetch\(", own)


def test_its_policy_lets_the_browser_fetch_nothing_and_run_only_its_two_scripts(page):
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy["content"].split(";"))
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(each["text"].encode()).digest()).decode() + "'"
        for each in page.all("script")
        if "type" not in each
    ]
    assert len(hashes) == 2 and rules == {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(hashes),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_whatever_is_written_in_a_record_is_text(tmp_path):
    record = small(config=f"configs/{EVIL}", data=f"{EVIL}/embedded", keys={EVIL: EVIL})
    record["title"], record["machine"] = EVIL, {EVIL: EVIL}
    (part,) = record["parts"]
    part["panels"] = [{**part["panels"][0], "label": EVIL}]
    part["axis"] = {"x": EVIL, "steps_per_x": 1}
    part["arms"][0]["name"] = EVIL
    part["arms"][0]["changes"] = {"norm": EVIL}
    run = part["arms"][0]["runs"][0]
    run["status"] = EVIL
    run["manifest"] |= {"device_kind": EVIL, "command": EVIL}
    page = rendered(record, tmp_path)
    assert (
        len(page.all("script")) == 3 and len(page.all("img")) == 1 and not page.all("a", href="b")
    )
    assert not [each for each in page.elements if any(name.startswith("on") for name in each)]
    assert page.texts("title") == page.texts("h1") == [EVIL]
    (chart,) = page.charts()
    assert chart["label"] == chart["x"] == chart["arms"][0]["name"] == EVIL
    assert chart["arms"][0]["lost"][0]["status"] == EVIL
    # where Markdown is read back, what stands between a pair of ` is code, without them
    for tag in ("code", "dd", "td", "th", "li", "strong"):
        assert any(EVIL in told for told in page.texts(tag)), tag
    for tag in ("h2", "h3"):
        assert any("<script>alert" in told for told in page.texts(tag)), tag


def test_it_is_well_formed_and_can_be_used_without_eyes(page):
    (root,) = page.all("html")
    assert root["lang"] == "en" and len(page.all("h1")) == 1
    names = [each["id"] for each in page.elements if "id" in each]
    assert len(set(names)) == len(names)
    targets = [each["href"].removeprefix("#") for each in page.all("a")]
    assert targets and set(targets) <= set(names)
    levels = [int(each["tag"][1]) for each in page.elements if re.fullmatch("h[1-6]", each["tag"])]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert all("alt" in each for each in page.all("img"))
    assert all(any(e["tag"] == "label" for e in each["inside"]) for each in page.all("input"))
    assert all("scope" in each for each in page.all("th"))
    for chart in page.all("div", kind="chart"):
        assert chart["tabindex"] == "0" and "curves of" in chart["aria-label"]


def test_text_can_be_read_on_its_ground_in_both_schemes():
    style = (Path(report.__file__).parent / "page" / "report.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    assert light.keys() == dark.keys() and light != dark

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for scheme in (light, dark):
        for ink, grounds in {
            "ink": ("page", "wash", "warn-wash", "mark"),
            "quiet": ("page", "wash"),
            "link": ("page",),
            "warn": ("page", "warn-wash"),
        }.items():
            for ground in grounds:
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground)


def test_the_figure_is_shown_where_no_script_runs(tmp_path):
    assert rendered(small(), tmp_path).all("p", kind="static") == []
    (tmp_path / "figure.svg").write_text("<svg/>")
    page = rendered(small(), tmp_path)
    (figure,) = [e for e in page.all("img") if e["inside"][-1].get("class") == "static"]
    content = figure["src"].removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(content) == b"<svg/>" and figure["alt"]


def test_the_same_record_gives_the_same_bytes(record, base, text):
    report.write(base / "again.html", json.loads(json.dumps(record)), base)
    assert (base / "again.html").read_text("utf-8") == text


# ------------------------------------------------------------------ in a browser

# Acts as a reader does and leaves what it saw in the page, which the browser then prints. It stands
# before all other scripts, so as to see what they try to do.
DRIVER = """
const seen = { errors: [], refused: [] };
addEventListener("error", (event) => seen.errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => seen.refused.push(event.blockedURI));
const wait = () => new Promise((done) => setTimeout(done, 300));
addEventListener("load", async () => {
  await wait();
  const part = document.querySelector(".part");
  const [first] = part.querySelectorAll(".chart");
  const click = async (query) => { part.querySelector(query).click(); await wait(); };
  const lines = () => first.querySelectorAll(".scatterlayer .trace").length;
  const label = () => [...first.querySelectorAll(".hoverlayer text")].map((e) => e.textContent);
  const types = () => [first.layout.xaxis.type, first.layout.yaxis.type];
  const press = async (key) => {
    first.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    await wait();
  };
  seen.drawn = document.querySelectorAll(".chart .cartesianlayer").length;
  seen.buttons = [...first.querySelectorAll(".modebar-btn")].map((e) => e.dataset.title);
  seen.all = [lines(), first.querySelectorAll(".js-fill").length, ...types()];
  await press("End");
  seen.label = label();
  seen.readout = part.querySelector(".readout").textContent;
  await press("Escape");
  seen.left = [...label(), part.querySelector(".readout").textContent];
  await click("[name=seeds]");
  seen.withSeeds = lines();
  await click("[name=seeds]");
  await click("[name=arm][value='1']");
  seen.withoutOne = [lines(), first.querySelectorAll(".js-fill").length];
  await press("Home");
  seen.labelWithoutOne = label();
  await click("[name=log_y]");
  await click("[value=seconds]");
  seen.changed = [Math.max(...first.data.flatMap((trace) => trace.x)), ...types()];
  for (const box of part.querySelectorAll("[name=arm]:checked")) box.click();
  await wait();
  seen.withoutAll = lines();
  seen.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.beforeProbe = seen.refused.length;
  new Image().src = "http://127.0.0.1:9/probe.png";
  await wait();
  document.body.dataset.seen = JSON.stringify(seen);
});
"""
MOUSE = "primaryPointerType=4,availablePointerTypes=4,primaryHoverType=2,availableHoverTypes=2"


def driven(text: str, path: Path) -> dict:
    """What the driver saw in the page, in a browser that can look up no name."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium to open the report in")
    # One more script that the policy has to name; all else stays as it is.
    allowed = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
    text = text.replace("<style>", f"<script>{DRIVER}</script><style>", 1)
    path.write_text(text, "utf-8")
    command = [
        *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={path.parent / 'profile'}"),
        *("--window-size=1200,900", "--virtual-time-budget=30000", f"--blink-settings={MOUSE}"),
        *("--dump-dom", path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (seen,) = re.findall(r'<body data-seen="([^"]*)"', done.stdout)
    return json.loads(html.unescape(seen))


@pytest.mark.slow
def test_a_browser_draws_it_and_it_asks_for_nothing(text, record, tmp_path):
    seen = driven(text, tmp_path / "report.html")
    assert seen["errors"] == []
    assert [name for name in seen["fetched"] if not name.startswith("data:")] == []
    assert seen["beforeProbe"] == 0 and seen["refused"] == ["http://127.0.0.1:9/probe.png"]
    assert seen["drawn"] == sum(len(part["panels"]) for part in record["parts"])
    assert seen["buttons"] == ["Download plot", "Zoom", "Pan", "Reset axes"]

    # three means and two runs that did not finish, three bands; then the seeds that did
    assert seen["all"] == [3 + 2, 3, "linear", "log"]
    assert seen["withSeeds"] == 5 + (5 + 4 + 4)
    assert seen["withoutOne"] == [2 + 1, 2] and seen["withoutAll"] == 0
    seconds = max(run["lines"][-1]["seconds"] for arm in arms_of(record) for run in arm["runs"])
    assert seen["changed"] == [seconds, "linear", "linear"]

    metric = record["parts"][0]["panels"][0]["metric"]
    for arm in arms_of(record):
        ends = [run["lines"][-1][metric] for run in arm["runs"] if run["status"] == "done"]
        values = f"{sum(ends) / len(ends):.4g}  ({min(ends):.4g} to {max(ends):.4g})"
        assert f"{arm['name']} : {values}" in seen["label"]
        assert f"{arm['name']} {values}" in seen["readout"]
    assert seen["left"] == [""]
    shown = " ".join(seen["labelWithoutOne"])
    assert "norm=layer" in shown and "norm=none" in shown and "norm=batch" not in shown


def arms_of(record: records.Json) -> list[records.Json]:
    return record["parts"][0]["arms"]


@pytest.mark.slow
def test_a_browser_takes_no_name_for_markup(tmp_path):
    record = small()
    arms_of(record)[0]["name"] = EVIL
    record["parts"][0]["panels"] = [{**records.PANELS[0], "label": EVIL}]
    record["parts"][0]["axis"] = {"x": EVIL, "steps_per_x": 1}
    seen = driven(report.render(record, tmp_path), tmp_path / "report.html")
    assert seen["errors"] == [] and seen["beforeProbe"] == 0
    assert any(each.startswith(f"{EVIL} : ") for each in seen["label"])
    assert seen["readout"].startswith(f"{EVIL} ")


def test_no_file_outside_of_the_folder_is_in_the_page(tmp_path):
    """A page is shown around: a record from elsewhere must not put a file of the user's into it."""
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "secret.png").write_bytes(b"a secret")
    (base / "link.png").symlink_to(tmp_path / "secret.png")
    for sheet in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "."):
        assert report._data_uri(base, sheet, "image/png") is None
    (base / "7.png").write_bytes(b"a sheet")
    assert report._data_uri(base, "7.png", "image/png") is not None
