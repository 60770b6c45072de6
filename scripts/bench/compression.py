"""Every compression method on one overthinking model, with its controls: rows, training, evaluation, one table.

    python -m scripts.bench.compression BASE --out runs/compression [--only hull merge tale] [--scale small]

1. The base's own traces are sampled once, as they are in the test; every data tool makes its rows of them, every arm
   trains from the base. What leaves out parts of one chain a problem takes greedy ones: those hold no slips.
2. Controls: as many steps on uncompressed traces, correct ones or any, and on traces cut off after as many tokens.
3. All arms solve the same test problems with the same seeds. The base's strategies without training give the hull.

How arms run, and what the table says: `scripts/bench/arms.py`.
"""

from __future__ import annotations

import json

from scripts.bench.arms import GREEDY, Arm, Arms, Bench, Scale, flags, head, hull, run_bench

RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
ADAPTER_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SCALES = {
    "full": Scale(),  # the 15M overthinker of gsm_symbolic, on a GPU
    "small": Scale("mixed", 1000, 400, 8, 150, 32, 400, 1, easy=4),  # the embedded overthinker, on a CPU: hours
    "toy": Scale("mixed", 24, 12, 4, 3, 8, 8, 1, easy=4),  # everything runs, and nothing is learnt
}


class CompressionBench(Bench):
    """Also with one greedy chain a problem."""

    def prepare(self) -> None:
        super().prepare()
        problems = self.scale.problems
        greedy = self.sample("greedy", self.base, problems, samples_per_problem=1, temperature=0.0)
        head(greedy, self.out / "few_greedy.jsonl", self.scale.slow_problems)


# ---- the arms ----


def fine_tuned(name: str, seed: int, method: str, is_slow: bool = False, **settings: object) -> Arm:
    """One data tool and one training; keys that begin with `train_` are the recipe's."""
    own = {key: value for key, value in settings.items() if not key.startswith("train_")}
    training = {key.removeprefix("train_"): value for key, value in settings.items() if key.startswith("train_")}

    def arm(bench: Bench) -> None:
        needs_model = {"model": bench.base} if method not in ("shortest_correct", "long2short_pairs") else {}
        rows = bench.rows(f"{name}-{seed}", method, bench.few if is_slow else bench.traces, **needs_model, **own)
        bench.test(f"{name}#{seed}", bench.train(name, rows, seed, **training))

    return arm


def token_skip(name: str, importance: str) -> Arm:
    """All ratios of one chain of every problem: six controls take many rows, and long."""

    def arm(bench: Bench) -> None:
        from efficient_reasoning.compression import by_problem
        from efficient_reasoning.compression.token_classifier import train_token_classifier
        from efficient_reasoning.compression.tokenizer import load_thinking
        from efficient_reasoning.traces import read_traces

        settings = {"level": "chunk", "importance": importance, "all_ratios": True}
        if importance == "classifier":
            settings["importance_model"] = bench.out / "classifier"
            groups = by_problem(read_traces(bench.traces))
            train_token_classifier(groups, load_thinking(bench.base), settings["importance_model"])
        rows = bench.rows(name, "token_skip", bench.out / "greedy.jsonl", model=bench.base, **settings)
        controls = [f"control?text=<|keep {ratio:g}|>" for ratio in RATIOS]
        model = bench.train(name, rows, times=4)
        for point in (name, name + GREEDY):
            bench.test(point, model, controls, samples=1)

    return arm


def uncompressed_long(bench: Bench) -> None:
    """The control of `token_skip`: as many steps on whole chains of the same."""
    rows = bench.rows("uncompressed long", "truncated", bench.out / "greedy.jsonl", model=bench.base, keep_ratio=1.0)
    model = bench.train("uncompressed long", rows, times=4)
    for point in ("uncompressed long", "uncompressed long" + GREEDY):
        bench.test(point, model, samples=1)


def first_correct(bench: Bench) -> None:
    """Also the source of chains that are shorter than any of the base's."""
    rows = bench.rows("first_correct-0", "first_correct", bench.traces, model=bench.base)
    model = bench.train("first_correct", rows)
    bench.sample("short", model, bench.scale.problems, samples_per_problem=2)
    bench.test("first_correct#0", model)


def c3ot(seed: int) -> Arm:
    """The short chains are the base's, or those of the model that `first_correct` has trained."""

    def arm(bench: Bench) -> None:
        bench.wait(bench.out / "points" / "first_correct#0.npz")
        rows = bench.rows(f"c3ot-{seed}", "c3ot", [bench.traces, bench.out / "short.jsonl"], model=bench.base)
        controls = ["control?text=<|short|>", "control?text=<|long|>"][: 1 if seed else 2]
        model = bench.train("c3ot", rows, seed, times=2)
        bench.test(f"c3ot#{seed}", model, controls)

    return arm


PREFERENCES = {"times": 0.5, "per_device_train_batch_size": 32}  # 150 steps at 1e-4 run away
DPO = {"objective": "dpo", "learning_rate": 5e-5} | PREFERENCES
SIMPO = {"objective": "simpo", "learning_rate": 5e-5} | PREFERENCES
VALVE = {"adapter": "keep"}


def cot_valve(bench: Bench) -> None:
    """A direction from short chains; chains of several lengths along it; trained again with a scale a row."""
    valve = bench.train(
        "cot_valve", bench.rows("cot_valve_short", "first_correct", bench.traces, model=bench.base), **VALVE
    )
    levels = [
        bench.sample(f"valve-{scale}", valve, bench.scale.slow_problems, adapter_scale=scale, samples_per_problem=2)
        for scale in (0.0, 0.33, 0.67, 1.0)
    ]
    bench.rows("cot_valve_plus", "cot_valve", levels)
    cot_valve_plus(0)(bench)
    for scale in ADAPTER_SCALES:
        bench.test(f"cot_valve {scale}", valve, adapter_scale=scale, samples=1)


def cot_valve_plus(seed: int) -> Arm:
    def arm(bench: Bench) -> None:
        rows = bench.wait(bench.out / "rows" / "cot_valve_plus.jsonl")
        plus = bench.train("cot_valve_plus", rows, seed, times=2, **VALVE)
        bench.test(f"cot_valve_plus 1.0#{seed}", plus, adapter_scale=1.0)
        for scale in () if seed else (0.0, 0.25, 0.5, 0.75, 1.25, 1.5):
            bench.test(f"cot_valve_plus {scale}#{seed}", plus, adapter_scale=scale, samples=2)

    return arm


def merge(bench: Bench) -> None:
    short = bench.train("merge_short", bench.rows("merge_short", "shortest_correct", bench.traces), seed=7)
    for kind in ("average", "task_arithmetic", "ties", "dare"):
        folder = bench.out / "models" / f"merge-{kind}"
        options = {"long": bench.base, "short": short, "merge": kind, "output_dir": folder}
        weights = [0.25, 0.5, 0.75, 1.0] if kind in ("average", "ties") else [0.5, 1.0]
        bench.command(
            "train",
            "merge",
            *flags(options | {"weights": weights} | ({} if kind == "average" else {"base": bench.base})),
        )
        for weight in weights:
            bench.test(f"merge {kind} {weight}", folder / f"weight_{weight:g}", samples=2)


def step_skip(bench: Bench) -> None:
    """Numbers of steps as orders, then twice fewer steps than before, each time from the base; easy problems alone."""
    easy = bench.out / "easy.jsonl"
    with open(bench.few, encoding="utf-8") as lines, open(easy, "w", encoding="utf-8") as out:
        out.writelines(line for line in lines if json.loads(line)["difficulty"] <= bench.scale.easy)
    training = {"times": 2}
    rows = bench.rows("step_skip-0", "step_skip", easy, stage="initial", model=bench.base, max_traces=4)
    model = bench.train("step_skip-0", rows, **training)
    bench.test("step_skip 0", model, samples=2)
    for iteration in (1, 2):
        skip = {"stage": "skip", "model": model, "max_skip": 2 * iteration, "max_traces": 4, "plain": "fewest"}
        skip |= {"samples_per_question": 2, "max_new_tokens": bench.scale.max_new_tokens}
        rows = bench.rows(f"step_skip-{iteration}", "step_skip", easy, **skip)
        model = bench.train(f"step_skip-{iteration}", rows, **training)
        bench.test(f"step_skip {iteration}", model, samples=2)


def tale(bench: Bench) -> None:
    """Budgets in the prompt, the search for the least, and training on what it finds."""
    rows = bench.rows("tale-initial", "tale", bench.few, stage="initial", model=bench.base)
    searcher = bench.train("tale-initial", rows, times=2)
    bench.test(
        "tale sft", bench.train("tale_sft", bench.rows("tale-sft", "tale", bench.few, model=searcher)), samples=2
    )
    pairs = bench.rows("tale-dpo", "tale", bench.few, model=searcher, objective="dpo")
    bench.test("tale dpo", bench.train("tale_dpo", pairs, **DPO), samples=2)


def spirit(order: str) -> Arm:
    def arm(bench: Bench) -> None:
        # Asked for a length instead (`keep_ratio` 0.6), it drops equations that the answer needs.
        settings = {"model": bench.base, "order": order, "max_perplexity_ratio": 1.25, "steps_per_round": 2}
        rows = bench.rows(f"spirit {order}", "spirit", bench.out / "few_greedy.jsonl", **settings)
        bench.test(f"spirit {order}", bench.train(f"spirit {order}", rows))

    return arm


def recipe(settings: dict[str, object]) -> dict[str, object]:
    return {f"train_{key}": value for key, value in settings.items()}


SEEDS = range(3)
ARMS: Arms = {
    "hull": hull,
    "cot_valve": cot_valve,
    "token_skip": token_skip("token_skip", "classifier"),
    "spirit": spirit("perplexity"),
    "random steps": spirit("random"),
    "step_skip": step_skip,
    "first_correct#0": first_correct,
    **{f"shortest_correct#{seed}": fine_tuned("shortest_correct", seed, "shortest_correct") for seed in SEEDS},
    **{f"uncompressed#{seed}": fine_tuned("uncompressed", seed, "truncated", keep_ratio=1.0) for seed in SEEDS},
    **{f"first_correct#{seed}": fine_tuned("first_correct", seed, "first_correct") for seed in (1, 2)},
    **{f"cot_valve_plus#{seed}": cot_valve_plus(seed) for seed in (1, 2)},
    **{f"c3ot#{seed}": c3ot(seed) for seed in SEEDS},
    "tale": tale,
    "merge": merge,
    "dpo": fine_tuned("dpo", 0, "long2short_pairs", **recipe(DPO)),
    "dpo 2e-5": fine_tuned("dpo 2e-5", 0, "long2short_pairs", **recipe(DPO | {"learning_rate": 2e-5})),
    "first_correct + reflection": fine_tuned("fcs_reflection", 0, "first_correct", keep="fcs_reflection"),
    "simpo": fine_tuned("simpo", 0, "first_correct", pairs=True, **recipe(SIMPO)),
    "simpo 2e-5": fine_tuned("simpo 2e-5", 0, "first_correct", pairs=True, **recipe(SIMPO | {"learning_rate": 2e-5})),
    "uncompressed long": uncompressed_long,
    "token_skip self-information": token_skip("token_skip self-information", "self_information"),
    "truncated 0.7": fine_tuned("truncated 0.7", 0, "truncated", keep_ratio=0.7),
    "truncated 0.5": fine_tuned("truncated 0.5", 0, "truncated", keep_ratio=0.5),
    "unfiltered": fine_tuned("unfiltered", 0, "shortest_correct", keep="random"),
    "all weights": fine_tuned(
        "shortest_correct all weights", 0, "shortest_correct", train_lora_rank=0, train_learning_rate=1e-4
    ),
}


if __name__ == "__main__":
    run_bench(CompressionBench, ARMS, SCALES, "runs/compression", __doc__)
