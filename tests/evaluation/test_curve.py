"""The picture: drawn without a display, whole, and telling unlimited points from budgets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from efficient_reasoning.evaluation.curve import draw_curve
from efficient_reasoning.evaluation.pictures import draw_lengths


def summary(*points: tuple[int | None, float, float], strategy: str = "budget-forcing") -> dict:
    return {
        "statistics": {"level": 0.95, "clustered_by": "problem"},
        "points": [
            {
                "strategy": strategy,
                "budget_tokens": budget,
                "n": 500,
                "n_problems": 500,
                "accuracy": {"mean": accuracy, "low": accuracy - 0.02, "high": accuracy},
                "generated_tokens": {"mean": tokens, "low": 0.98 * tokens, "high": 1.02 * tokens},
            }
            for budget, accuracy, tokens in points
        ],
    }


def drawn(monkeypatch, tmp_path, summaries: dict):
    """The axes that were drawn."""
    from matplotlib.figure import Figure

    kept = []
    subplot = Figure.add_subplot
    monkeypatch.setattr(Figure, "add_subplot", lambda figure: kept.append(subplot(figure)) or kept[-1])
    draw_curve(summaries, tmp_path / "curve.png", title="Accuracy against thinking spent")
    return kept[0]


def test_a_png_is_written_whole_and_alone(tmp_path):
    draw_curve({"a": summary((None, 0.9, 100.0), (32, 0.5, 30.0))}, tmp_path / "curve.png", title="a")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_the_legend_names_runs_and_both_kinds_of_points(monkeypatch, tmp_path):
    runs = {"base": summary((None, 0.9, 100.0), (32, 0.5, 30.0)), "ours": summary((None, 0.9, 50.0), (32, 0.8, 30.0))}
    axes = drawn(monkeypatch, tmp_path, runs)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["base", "ours", "with a budget", "unlimited"]
    points = [line for line in axes.get_lines() if len(line.get_xdata()) and line.get_marker() == "o"]
    assert sorted(line.get_markerfacecolor() for line in points) == ["#000000", "#D55E00", "white", "white"]


def test_strategies_of_one_run_are_told_apart(monkeypatch, tmp_path):
    run = summary((None, 0.9, 100.0))
    run["points"] += summary((None, 0.8, 40.0), strategy="no-thinking")["points"]
    labels = [text.get_text() for text in drawn(monkeypatch, tmp_path, {"base": run}).get_legend().get_texts()]
    assert labels[:2] == ["budget-forcing", "no-thinking"]
    both = drawn(monkeypatch, tmp_path, {"base": run, "ours": run}).get_legend()
    assert [text.get_text() for text in both.get_texts()][:2] == ["base, budget-forcing", "base, no-thinking"]
    assert both.get_bbox_to_anchor() is not None


@pytest.mark.parametrize(("longest", "scale"), [(200.0, "linear"), (9000.0, "log")])
def test_wide_spans_of_tokens_are_logarithmic(monkeypatch, tmp_path, longest, scale):
    axes = drawn(monkeypatch, tmp_path, {"a": summary((None, 0.9, longest), (64, 0.4, 60.0))})
    assert axes.get_xscale() == scale


def test_a_tenth_of_a_point_does_not_look_like_a_cliff(monkeypatch, tmp_path):
    axes = drawn(monkeypatch, tmp_path, {"a": summary((None, 1.0, 100.0)), "b": summary((None, 0.999, 90.0))})
    bottom, top = axes.get_ylim()
    assert top - bottom >= 10 and top >= 100


def test_drawing_needs_neither_pyplot_nor_a_display(tmp_path):
    program = (
        "import sys; from efficient_reasoning.evaluation import draw_curve\n"
        "point = {'strategy': 's', 'budget_tokens': None, 'n': 1, 'n_problems': 1,"
        " 'accuracy': {'mean': .5, 'low': .4, 'high': .6}, 'generated_tokens': {'mean': 5, 'low': 4, 'high': 6}}\n"
        "draw_curve({'a': {'points': [point], 'statistics': {'level': .95, 'clustered_by': 'problem'}}},"
        f" {str(tmp_path / 'c.png')!r}, 'a')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_mean_length_is_that_of_all_responses_empty_ones_included(monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    kept = []
    subplots = Figure.subplots
    monkeypatch.setattr(Figure, "subplots", lambda *args, **more: kept.append(subplots(*args, **more)) or kept[-1])
    tokens, correct = np.array([0.0, 0.0, 30.0]), np.array([False, False, True])
    draw_lengths({"a": (tokens, correct)}, tmp_path / "lengths.png", title="Lengths")
    assert "mean 10.0" in kept[0][0, 0].get_legend_handles_labels()[1]
