"""Evaluation: accuracy joined with tokens, with intervals, as a folder that can be resumed, compared and published.

`evaluate` and `compare` share their names with the modules they live in. A name that loads on first use would turn
into the module as soon as anyone imported it, so the functions are bound here, now; torch, transformers and matplotlib
load when they are first used.
"""

from __future__ import annotations

from efficient_reasoning.evaluation.compare import Comparison, compare
from efficient_reasoning.evaluation.curve import draw_curve
from efficient_reasoning.evaluation.evaluate import evaluate, evaluate_model
from efficient_reasoning.evaluation.off_target import compare_off_target, load_suite, run_off_target
from efficient_reasoning.evaluation.plan import Plan, plan
from efficient_reasoning.evaluation.statistics import Interval, bootstrap, paired_bootstrap, paired_ratio

__all__ = [
    "Comparison",
    "Interval",
    "Plan",
    "bootstrap",
    "compare",
    "compare_off_target",
    "draw_curve",
    "evaluate",
    "evaluate_model",
    "load_suite",
    "paired_bootstrap",
    "paired_ratio",
    "plan",
    "run_off_target",
]
