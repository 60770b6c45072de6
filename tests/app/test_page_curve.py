from __future__ import annotations

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from efficient_reasoning.app.curve import draw_curve, legend, numbered_points
from efficient_reasoning.app.runs import open_runs


def interval(mean, low=None, high=None):
    return {"mean": mean, "low": mean if low is None else low, "high": mean if high is None else high}


def point(tokens, accuracy, budget=None, strategy="s"):
    return {
        "strategy": strategy,
        "budget_tokens": budget,
        "n": 5,
        "n_problems": 5,
        "accuracy": interval(*accuracy),
        "generated_tokens": interval(*tokens),
        "total_tokens": interval(*tokens),
    }


def marks(svg: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter() if element.get("class") == "point"]


def test_points_are_numbered_and_say_what_they_are(make_run):
    runs = open_runs([make_run("a"), make_run("b")])
    drawn = marks(draw_curve(runs, 960, 460))
    assert [mark.get("data-point") for mark in drawn] == list("012345")
    assert all(mark.get("tabindex") == "0" for mark in drawn)
    for mark, (run, own) in zip(drawn, numbered_points(runs), strict=True):
        # XML makes a space of a line's end in an attribute; HTML keeps it.
        text = mark.get("aria-label")
        assert text.startswith(f"{run.label} {own['strategy']}, ")
        assert ("64 tokens" in text) == (own["budget_tokens"] == 64)
        accuracy = own["accuracy"]
        low, high = 100 * accuracy["low"], 100 * accuracy["high"]
        assert f"accuracy {100 * accuracy['mean']:.1f} % [{low:.1f}, {high:.1f}]" in text
        assert f"{own['generated_tokens']['mean']:.1f} tokens [" in text
        assert "30 problems, 30 samples" in text


def test_budgets_are_circles_and_their_absence_diamonds():
    run = SimpleNamespace(label="r", points=[point([50.0], [0.5], 64), point([80.0], [0.9])])
    with_budget, without = marks(draw_curve([run], 960, 460))
    assert [child.get("class") for child in with_budget][-2:] == ["full", "reach"]
    assert [child.get("class") for child in without][-2:] == ["hollow", "reach"]


@pytest.mark.parametrize(
    "points",
    [
        [point([0.0], [0.0])],
        [point([134.0, 120.0, 150.0], [1.0, 0.94, 1.0])],
        [point([3.0, 2.0, 4.0], [0.5, 0.4, 0.6]), point([9000.0, 8000.0, 9900.0], [0.51, 0.41, 0.61])],
        [point([10.0], [0.7]), point([10.0], [0.7])],
        [point([0.2, 0.1, 0.3], [0.0, 0.0, 0.01]), point([40_000.0], [1.0])],
    ],
)
@pytest.mark.parametrize(("width", "height"), [(960, 460), (360, 330)])
def test_everything_is_drawn_inside_and_up_and_left_are_better(points, width, height):
    svg = draw_curve([SimpleNamespace(label="r", points=points)], width, height)
    for letter, most in (("x", width), ("y", height)):
        places = [float(number) for number in re.findall(rf' c?{letter}[12]?="([-\d.]+)"', svg)]
        assert places
        assert all(0 <= place <= most for place in places)
    reaches = [mark.find("*[@class='reach']") for mark in marks(svg)]
    at = [(float(reach.get("cx")), float(reach.get("cy"))) for reach in reaches]
    means = [(own["generated_tokens"]["mean"], -own["accuracy"]["mean"]) for own in points]
    for i, one in enumerate(means):
        for j, other in enumerate(means):
            assert one[0] <= other[0] or at[i][0] > at[j][0]
            assert one[1] <= other[1] or at[i][1] > at[j][1]


def test_names_are_text():
    run = SimpleNamespace(label='<script>"&', points=[point([5.0], [0.5], strategy="<b>")])
    for html in (draw_curve([run], 960, 460), legend([run])):
        assert "<script" not in html
        assert "<b>" not in html
    assert "&lt;script&gt;&quot;&amp;" in legend([run])
