"""The record, and the table and the figure that are made of it alone."""

import copy
import json
from xml.etree import ElementTree

import markdown_it
import numpy as np
import pytest

from lnjax.comparison import figure, results, tables
from tests.comparison import records


@pytest.fixture(scope="module")
def record():
    return records.comparison(count=8, seeds=3)


def rows(text):
    """The cells of every row of every table, by what stands in the first."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| "):
            found.setdefault(cells[0], []).append(cells[1:])
    return found


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    results.write(tmp_path / "results.json", record)
    assert results.read(tmp_path / "results.json") == record


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "there is no"), ("{", "damaged"), ("[]", "damaged"), ("{}", "no record")],
)
def test_what_is_no_record_is_refused(content, told, tmp_path):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=told):
        results.read(path)


def test_final_values_are_those_of_the_finished_seeds(record):
    found = rows(tables.table(record))
    for part in record["parts"]:
        for number, arm in enumerate(part["arms"]):
            metric = part["panels"][0]["metric"]
            last = [
                [line[metric] for line in run["lines"] if line.get(metric) is not None][-1]
                for run in arm["runs"]
                if run["status"] == "done"
            ]
            cells = found[arm["name"]][0]
            assert cells[0] == f"{len(last)} of {len(arm['runs'])}", number
            assert float(cells[1].split(" ± ")[0]) == pytest.approx(np.mean(last), rel=1e-3)


def test_who_is_compared_with_whom():
    def arms(*changes):
        return [records.arm(each, []) for each in changes]

    def names(found):
        return [(one["name"], other["name"]) for one, other in results.rivals(found)]

    assert names(arms({"norm": "none"}, {"norm": "layer"}, {"norm": "batch"})) == [
        ("norm=layer", "norm=none"),
        ("norm=layer", "norm=batch"),
    ]
    product = [{"norm": norm, "size": size} for norm in ("layer", "none") for size in "12"]
    assert names(arms(*product)) == [
        (f"norm=layer,size={size}", f"norm=none,size={size}") for size in "12"
    ]
    assert names(arms({"size": "1"}, {"size": "2"})) == [("size=1", "size=2")]
    same = arms({"norm": "layer", "size": "1"}, {"norm": "layer", "size": "2"})
    assert names(same) == [("norm=layer,size=1", "norm=layer,size=2")]


def test_runs_that_are_not_done_are_named(record):
    told = tables.table(record)
    for part in record["parts"]:
        for arm in part["arms"]:
            for run in arm["runs"]:
                line = f"* {arm['name']}, seed {run['seed']}: {run['status']} at {run['step']}"
                assert (line in told) == (run["status"] != "done")


def test_numbers_of_the_paper_stand_beside_those_of_its_data_only(record):
    record = copy.deepcopy(record)
    part = record["parts"][0]
    metric = part["panels"][0]["metric"]
    part["paper"] = {"norm=layer": {metric: [82.09, "6.4"]}}
    assert "82.09 (6.4); embedded data: not comparable" in tables.table(record)
    part["data"] = "digits/real"
    cells = rows(tables.table(record))["norm=layer"][0]
    assert cells[-1] == "82.09 (6.4)"


def test_a_bar_in_a_value_does_not_end_a_cell():
    assert tables.markdown(["a"], [["x|y"]])[-1] == r"| x\|y |"


def test_training_and_evaluation_of_a_step_are_one_line(tmp_path):
    told = [{"step": 2, "seconds": 1.0, "train/a": 1.0}, {"step": 2, "seconds": 1.5, "eval/a": 2.0}]
    text = "".join(json.dumps(line) + "\n" for line in told)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "sec')
    run = results.gather_run(tmp_path, tmp_path.parent, 0)
    assert run["lines"] == [{"step": 2, "seconds": 1.5, "train/a": 1.0, "eval/a": 2.0}]
    assert (run["status"], run["step"], run["sheet"]) == ("unfinished", 2, None)


def test_the_figure_is_of_the_record_alone(record, tmp_path):
    figure.write(tmp_path, record)
    first = (tmp_path / "figure.svg").read_bytes()
    figure.write(tmp_path, copy.deepcopy(record))
    assert (tmp_path / "figure.svg").read_bytes() == first
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    # all panels by step, and the first of each part by second too
    wanted = sum(len(part["panels"]) + 1 for part in record["parts"])
    drawn = figure.draw(record)
    assert len(drawn.axes) == wanted
    lines = drawn.axes[0].get_lines()
    labels = [line.get_label() for line in lines if not line.get_label().startswith("_")]
    assert labels == [arm["name"] for arm in record["parts"][0]["arms"]]
    whole = results.spread(record["parts"][0]["arms"][0], record["parts"][0]["panels"][0])
    np.testing.assert_allclose(lines[0].get_ydata(), whole.mean)
    np.testing.assert_allclose(
        lines[0].get_xdata(), whole.steps / record["parts"][0]["axis"]["steps_per_x"]
    )


def test_a_last_row_that_is_not_full_has_no_empty_axes(record):
    part = record["parts"][0]
    panels = [*part["panels"], part["panels"][0]]
    drawn = figure.draw(records.results({**part, "panels": panels}))
    assert [len(ax.get_lines()) > 0 for ax in drawn.axes] == [True] * 4


def test_where_the_challenger_never_arrives_the_rival_is_measured_too():
    curves = {"layer": [3.0, 2.0, 1.5, 1.2], "batch": [3.0, 1.2, 1.0, 0.9], "none": [3.0] * 4}
    arms = [
        records.arm({"norm": norm}, [records.run(norm, 0, {"train/nll": values})])
        for norm, values in curves.items()
    ]
    record = records.results(records.part(arms, panels=[records.PANELS[0]]))
    found = rows(tables.table(record))
    assert found["norm=layer : norm=batch"][0][0] == "never (one seed)"
    assert found["norm=batch : norm=layer"][0][0] == "0.5 (one seed)"
    assert found["norm=layer : norm=none"][0][0] == "1 (one seed)"
    assert "norm=none : norm=layer" not in found


@pytest.mark.parametrize(
    ("chosen", "told"), [("1e-3", False), ("1e-2", True), ("1e-4", True)], ids=str
)
def test_a_choice_at_the_end_of_its_grid_is_told(chosen, told):
    tuned = {
        "name": f"learning_rate={chosen},adam=corrected",
        "chosen": {"learning_rate": chosen, "adam": "corrected"},
        "tried": {f"learning_rate={rate},adam=corrected": 1.0 for rate in ("1e-4", "1e-3", "1e-2")},
        "metric": "eval/nll",
        "seed": 9,
        "steps": 30,
    }
    one = records.arm({"norm": "layer"}, [records.run("a", 0, {"train/nll": [1.0]})], tuned=tuned)
    (line,) = [
        line
        for line in tables.table(records.results(records.part([one]))).splitlines()
        if line.startswith("* norm=layer: ")
    ]
    assert line.endswith("est tried") == told


def test_names_mean_nothing_in_markdown(record):
    evil = "<img src=x onerror=alert(1)>[a](http://b)`c`*d*_e_&lt;|f\x1b[2J\n# g\u202e\\"
    changed = json.loads(json.dumps(record))
    changed["title"] = changed["parts"][0]["config"] = changed["parts"][0]["data"] = evil
    changed["parts"][0]["panels"][0]["label"] = evil
    for arm in changed["parts"][0]["arms"]:
        arm["name"] = evil + arm["name"]
    text = tables.table(changed)
    assert text.count("\n") == tables.table(record).count("\n")  # no line of its own
    assert "\x1b" not in text and "\u202e" not in text
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    for tag in ("<img", "<a ", "<em>", "<strong>", "<h1>g", "<code>c"):
        assert tag not in html, tag
    assert "&lt;img src=x onerror=alert(1)&gt;[a](http://b)`c`*d*_e_&amp;lt;|f" in html
    assert html.count("<h1>") == 1 and html.count("<th>") == html.count("</th>")
