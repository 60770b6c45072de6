"""The comparison: paired, on the same problems, and saying which is better only when it is."""

from __future__ import annotations

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from efficient_reasoning.contamination import training_problems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation import Interval, compare, evaluate
from efficient_reasoning.evaluation.compare import _markdown
from efficient_reasoning.evaluation.statistics import mark_of
from efficient_reasoning.evaluation.summary import read_summary, summarise
from efficient_reasoning.files import read_jsonl, write_json, write_jsonl
from efficient_reasoning.inference import Ledger

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def runs(problems, fake_reasoner, tmp_path):
    """base: thinks for 60 tokens; concise: for 30, as right as base; careless: for 30, often wrong."""
    arms = {"base": (0.9, 60), "concise": (0.9, 30), "careless": (0.3, 30)}
    return {
        name: evaluate(
            fake_reasoner(name, skill, tokens),
            problems,
            budgets=(None, 32),
            samples_per_problem=4,
            out=tmp_path / name,
        )
        for name, (skill, tokens) in arms.items()
    }


def rows_of(comparison) -> dict:
    return {(row.run, row.budget_tokens): row for row in comparison.rows}


def test_changes_are_those_of_the_samples(runs):
    comparison = compare([runs["base"], runs["concise"]])
    row = rows_of(comparison)["concise", None]
    means = {
        name: [
            np.mean(
                [sample[key] for sample in read_jsonl(runs[name] / "samples.jsonl") if not sample["budget_tokens"]]
            )
            for key in ("correct", "total_tokens")
        ]
        for name in ("base", "concise")
    }
    assert row.accuracy_change.mean == pytest.approx(means["concise"][0] - means["base"][0])
    assert row.tokens_change.mean == pytest.approx(means["concise"][1] / means["base"][1] - 1)
    assert row.tokens_change.low < row.tokens_change.mean < row.tokens_change.high < -0.4
    assert rows_of(comparison)["base", None].accuracy_change is None


def test_marks_say_better_worse_or_no_loss(runs):
    rows = rows_of(compare([runs["base"], runs["concise"], runs["careless"]]))
    assert rows["concise", 32].mark == "+"  # 30 tokens of thinking fit into the budget, 60 do not
    assert rows["careless", None].mark == "-"
    # The same luck decides both: not one of 40 problems differs, which still leaves 9 points of doubt.
    assert rows["concise", None].accuracy_change.mean == 0
    assert rows["concise", None].mark == "?"
    assert rows["concise", None].accuracy_change.low == pytest.approx(0.025 ** (1 / 40) - 1)


@pytest.mark.parametrize(
    ("low", "high", "mark"),
    [
        (0.001, 0.02, "+"),
        (-0.02, -0.001, "-"),
        (-0.01, 0.0, "="),
        (-0.0101, 0.0, "?"),
        (0.7 - 0.71, 0.1 + 0.2 - 0.3, "="),  # -0.01 and 0 but for the last bit
        (0.1 + 0.2 - 0.3, 0.01, "="),
    ],
)
def test_the_limits_of_the_marks(low, high, mark):
    assert mark_of(Interval(0.0, low, high)) == mark


def test_the_removable_share_measures_against_the_floor(runs):
    rows = rows_of(compare([runs["base"], runs["concise"]]))
    base, ours = (rows[name, None].generated_tokens.mean for name in ("base", "concise"))
    floor = np.mean([10 + i % 3 for i in range(40)])
    assert rows["concise", None].removable_share == pytest.approx((base - ours) / (base - floor))


def test_tokens_that_were_thrown_away_are_not_hidden(problems, fake_reasoner, tmp_path):
    class Probing(fake_reasoner):
        def solve(self, question, budget, seed):
            solution = super().solve(question, budget, seed)
            solution.spend += Ledger(decoded_tokens=30)
            return solution

    kinds = {"plain": fake_reasoner, "probing": Probing}
    runs = [evaluate(kind(name), problems, out=tmp_path / name) for name, kind in kinds.items()]
    summary = read_summary(runs[1])["points"][0]
    assert summary["spent_tokens"]["mean"] == pytest.approx(summary["total_tokens"]["mean"] + 31)
    plain, probing = compare(runs).rows
    assert plain.generated_tokens.mean == pytest.approx(summary["total_tokens"]["mean"])
    assert probing.generated_tokens.mean == pytest.approx(plain.generated_tokens.mean + 30)
    assert probing.tokens_change.mean == pytest.approx(30 / plain.generated_tokens.mean)


def test_without_floors_there_is_no_removable_share(problems, fake_reasoner, tmp_path):
    bare = [{key: value for key, value in problem.items() if key != "metadata"} for problem in problems]
    folders = [evaluate(fake_reasoner(name), bare, out=tmp_path / name) for name in ("a", "b")]
    assert [row.removable_share for row in compare(folders).rows] == [None, None]


def test_runs_with_different_numbers_of_samples_pair_by_problem(problems, fake_reasoner, runs, tmp_path):
    fewer = evaluate(fake_reasoner("base", 0.9, 60), problems, samples_per_problem=2, out=tmp_path / "fewer")
    comparison = compare([runs["base"], fewer])
    row = rows_of(comparison)["fewer", None]
    assert row.tokens_change.mean == pytest.approx(
        row.generated_tokens.mean / comparison.rows[0].generated_tokens.mean - 1
    )
    assert comparison.remarks[0] == "Note: the runs differ in samples_per_problem (4, 2)."


def test_a_point_the_baseline_lacks_is_shown_without_a_change(problems, fake_reasoner, runs, tmp_path):
    extra = evaluate(fake_reasoner("base", 0.9, 60), problems, budgets=(16,), out=tmp_path / "extra")
    row = compare([runs["base"], extra]).rows[-1]
    assert (row.budget_tokens, row.accuracy_change, row.mark) == (16, None, "")


def test_an_extension_that_was_cut_off_changes_nothing(runs):
    before = compare([runs["base"], runs["concise"]])
    path = runs["concise"] / "samples.jsonl"
    first = path.read_text().splitlines()[0]
    with open(path, "a") as stream:
        stream.write(json.dumps(json.loads(first) | {"budget_tokens": 48}) + "\n")
    assert rows_of(compare([runs["base"], runs["concise"]])) == rows_of(before)


def test_whole_runs_leave_out_what_stands_in_no_table(runs):
    """Of 513 samples a first chunk of 512 knows all problems: such a point is whole in problems, not in samples."""
    before = compare([runs["base"], runs["concise"]])
    path = runs["concise"] / "samples.jsonl"
    unlimited = [sample for sample in read_jsonl(path) if sample["budget_tokens"] is None]
    with open(path, "a") as stream:
        for sample in unlimited[:-1]:
            spend = sample["spend"] | {"decoded_tokens": 3, "forced_tokens": 0}
            stream.write(json.dumps(sample | {"budget_tokens": 8, "spend": spend}) + "\n")
    assert compare([runs["base"], runs["concise"]]).curves == before.curves


@pytest.mark.filterwarnings("error")
def test_a_run_that_says_nothing_is_compared(runs, tmp_path):
    silent = runs["careless"]
    path = silent / "samples.jsonl"
    empty = {"total_tokens": 0, "correct": False, "truncated": False, "first_correct_tokens": None}
    nothing = {"decoded_tokens": 1, "forced_tokens": 0}
    write_jsonl(
        path,
        [sample | empty | {"spend": sample["spend"] | nothing} for sample in list(read_jsonl(path))],
    )
    silenced = summarise(read_jsonl(path), read_summary(silent)["config"])
    write_json(silent / "summary.json", read_summary(silent) | silenced)
    comparison = compare([silent, runs["base"]], tmp_path / "out")
    row = rows_of(comparison)["base", None]
    assert row.tokens_change is None and row.mark == "+" and np.isnan(row.aes)
    assert "NaN" not in (tmp_path / "out" / "compare.json").read_text()
    assert rows_of(compare([runs["base"], silent]))["careless", None].tokens_change.mean == -1


def test_other_problems_are_refused_by_name(problems, fake_reasoner, runs, tmp_path):
    fewer = evaluate(fake_reasoner(), problems[:-2], out=tmp_path / "fewer")
    with pytest.raises(BadInput, match=r"2 of .*base are not in .*fewer, such as sum-38"):
        compare([runs["base"], fewer])
    edited = evaluate(fake_reasoner(), [{**problems[0], "answer": "5"}, *problems[1:]], out=tmp_path / "edited")
    with pytest.raises(BadInput, match="problem sum-0 has another question, answer or task"):
        compare([runs["base"], edited])


def test_unfinished_and_missing_runs_are_refused(runs, tmp_path):
    (runs["concise"] / "summary.json").unlink()
    with pytest.raises(BadInput, match="repeat its command to finish it"):
        compare([runs["base"], runs["concise"]])
    with pytest.raises(BadInput, match="check the path"):
        compare([runs["base"], tmp_path / "nowhere"])
    with pytest.raises(BadInput, match="named twice"):
        compare([runs["base"], runs["base"]])
    for nothing in ("{", "{}", "[]"):
        (runs["concise"] / "summary.json").write_text(nothing)
        with pytest.raises(BadInput, match=r"summary\.json: no summary of a run"):
            compare([runs["base"], runs["concise"]])


def test_runs_of_the_same_name_are_told_apart_by_their_parents(problems, fake_reasoner, tmp_path):
    folders = [evaluate(fake_reasoner(), problems, out=tmp_path / seed / "run") for seed in ("seed0", "seed1")]
    assert [row.run for row in compare(folders).rows] == ["seed0/run", "seed1/run"]


def test_the_table_is_aligned_and_the_files_agree_with_it(runs, tmp_path):
    comparison = compare(list(runs.values()), out=tmp_path / "out")
    names = ("curve", "lengths", "budgets", "difficulty", "coverage")
    pictures = {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.json",
        "compare.csv",
        "table.md",
    } | pictures
    lines = comparison.table().splitlines()
    assert lines[0].split()[:3] == ["run", "strategy", "budget"]
    assert len({line.index("budget-forcing") for line in lines[2:8]}) == 1
    row = rows_of(comparison)["concise", 32]
    concise = next(line for line in lines if line.startswith("concise") and "32 tokens" in line)
    assert f"{100 * row.accuracy_change.mean:+.1f} [" in concise and concise.split("]")[1].split()[0] != ""
    markdown = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert {line.count("|") for line in markdown[:8]} == {11}
    saved = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert [entry["accuracy"]["mean"] for entry in saved] == [entry.accuracy.mean for entry in comparison.rows]
    with open(tmp_path / "out" / "compare.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert table[0]["accuracy_change"] == "" and float(table[-1]["accuracy_change"]) < 0


def test_pictures_of_an_earlier_comparison_do_not_stay(problems, fake_reasoner, runs, tmp_path):
    bare = [{name: problem[name] for name in ("id", "question", "answer", "task")} for problem in problems]
    unlimited = evaluate(fake_reasoner(), bare, out=tmp_path / "unlimited")
    out = tmp_path / "out"
    compare([runs["base"]], out)
    assert (out / "budgets.png").exists() and (out / "difficulty.pdf").exists()
    compare([unlimited], out)
    assert (
        sorted(path.stem for path in out.iterdir() if path.suffix in (".png", ".pdf"))
        == ["curve"] * 2 + ["lengths"] * 2
    )


def test_a_comparison_of_several_samples_draws_what_they_cover(problems, fake_reasoner, tmp_path):
    run = evaluate(fake_reasoner(skill=0.4), problems, samples_per_problem=4, out=tmp_path / "run")
    compare([run], tmp_path / "out")
    drawn = (tmp_path / "out" / "coverage.png").read_bytes()
    summary = json.loads((run / "summary.json").read_text())
    del summary["points"][0]["coverage_fit"]  # as a summary of before
    (run / "summary.json").write_text(json.dumps(summary))
    compare([run], tmp_path / "out")
    assert (tmp_path / "out" / "coverage.png").read_bytes() != drawn


def test_a_dominated_point_names_the_one_that_beats_it(runs):
    rows = rows_of(compare(list(runs.values())))
    assert rows["concise", None].dominated_by is None
    assert (
        rows["careless", None].dominated_by == "concise, budget-forcing, unlimited"
    )  # of the same length, and better
    [alone] = [row for row in compare([runs["base"]]).rows if row.budget_tokens is None]
    assert alone.dominated_by is None


def test_the_efficiency_score_of_a_row_is_that_of_its_means(runs):
    rows = rows_of(compare([runs["base"], runs["careless"]]))
    base, row = rows["base", None], rows["careless", None]
    saved = 1 - row.generated_tokens.mean / base.generated_tokens.mean
    lost = 1 - row.accuracy.mean / base.accuracy.mean
    assert lost > 0.5
    assert row.aes == pytest.approx(saved - 5 * lost)
    assert row.aes_as_published == pytest.approx(saved + 5 * lost)
    assert base.aes is None


def test_a_control_divides_no_column():
    assert _markdown([["strategy", "n"], ["control?text=<|x|>", "1"]], 1).splitlines()[2] == (
        r"| control?text=<\|x\|> | 1 |"
    )


def test_whole_runs_are_compared_by_their_fronts(runs):
    comparison = compare(list(runs.values()))
    base, concise, careless = comparison.curves
    assert (base.run, base.area_change, base.tokens_change) == ("base", None, None)
    # Short responses under the smallest budget already: nothing is gained by more, and nothing lost by less.
    assert concise.area.low <= concise.area.mean <= concise.area.high
    assert concise.area_change.low > 0.1 and careless.area_change.high < 0.1
    assert concise.tokens_change < -0.4 and concise.tokens.high < base.tokens.low
    assert (careless.tokens, careless.tokens_change) == (None, None)
    assert "never" in next(line for line in comparison.table().splitlines()[8:] if line.startswith("careless"))
    assert "tokens at no loss" in comparison.table() and "area" in comparison.markdown()
    assert compare([runs["base"]]).curves == []


def test_what_was_trained_stands_beside_what_is_generated(problems, fake_reasoner, tmp_path):
    trained = fake_reasoner("trained", thinking_tokens=30)
    trained.metadata = SimpleNamespace(trained_tokens=25.0)
    folders = [evaluate(one, problems, out=tmp_path / one.name) for one in (fake_reasoner("base"), trained)]
    remark = compare(folders).remarks[0]
    assert re.fullmatch(
        r"trained was trained on responses of 25.0 tokens; without a budget it generates 3\d.\d \(budget-forcing\).",
        remark,
    )


def test_problems_that_were_trained_on_are_named(problems, fake_reasoner, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    training_problems([{"question": f" compute {i} + {i} "} for i in (3, 7)]).save(checkpoint)
    trained = fake_reasoner("trained")
    trained.location = str(checkpoint)
    folders = [evaluate(one, problems, out=tmp_path / one.name) for one in (fake_reasoner("base"), trained)]
    assert compare(folders).remarks[0] == "Note: trained was trained on 2 of these 40 problems, such as sum-3."
    known = [read_summary(folder)["contamination"] for folder in folders]
    assert [one["checked"] for one in known] == [False, True]


def test_what_was_not_checked_off_target_is_said(runs):
    comparison = compare([runs["base"], runs["concise"], runs["careless"]])
    assert comparison.remarks == [
        "Off target: not checked (concise, careless); `evaluate --off-target` on baseline and run does it."
    ]
    assert "off target" not in comparison.table()  # no empty table


def test_what_was_checked_off_target_is_compared(runs):
    for name, right in (("base", 24), ("concise", 6)):
        folder = runs[name] / "off_target"
        folder.mkdir()
        rows = [{"id": str(i), "correct": i < right, "total_tokens": 10} for i in range(24)]
        write_jsonl(folder / "tool_calls.jsonl", rows)
        checks = {"tool_calls": {"problems_fingerprint": "same"}, "languages": {"not_checked": "no such language"}}
        (runs[name] / "off_target.json").write_text(json.dumps({"sampling": {}, "checks": checks}))
    comparison = compare([runs["base"], runs["concise"]])
    change = next(one for one in comparison.off_target["concise"] if one.check == "tool_calls")
    assert (change.mark, change.accuracy_change.mean) == ("-", -0.75)
    lines = comparison.table().splitlines()
    assert next(line for line in lines if "tool_calls" in line).split()[:5] == [
        "concise",
        "tool_calls",
        "24",
        "100.0",
        "%",
    ]
    assert "no such language" in next(line for line in lines if "languages" in line)
    assert not any(remark.startswith("Off target") for remark in comparison.remarks)


def test_a_baseline_that_is_never_right_has_no_tokens_without_loss(problems, fake_reasoner, tmp_path):
    folders = [
        evaluate(fake_reasoner(name, skill), problems, out=tmp_path / name) for name, skill in (("a", -1), ("b", 1))
    ]
    assert [(curve.tokens, curve.tokens_change) for curve in compare(folders).curves] == [(None, None), (None, None)]
