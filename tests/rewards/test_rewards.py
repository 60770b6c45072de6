"""Length rewards: the formulas by hand and by property, and the TRL side on ids of the embedded tokenizer."""

from __future__ import annotations

import doctest
import functools
import importlib
import itertools
import json
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import FORMULAS, Rollouts, get_length_reward, takes
from efficient_reasoning.thinking import ThinkingFormat

TOKENIZER = load_tokenizer(resolve_model("overthinker"))
THINKING = ThinkingFormat.from_tokenizer(TOKENIZER)


@dataclass(frozen=True)
class Property:
    """What holds for a reward.

    Attributes:
        needed: parameters that have no default.
        ranks: every correct response earns more than every wrong one of its group.
        shorter_pays: of two correct responses of a group the shorter earns more.
        ceiling: at which that stops.
        plain: parameters under which it is the accuracy.
        cut_pays: a wrong response may earn more by going on until it is cut off.
    """

    needed: dict = field(default_factory=dict)
    ranks: bool = True
    shorter_pays: bool = True
    ceiling: float | None = None
    plain: dict | None = None
    cut_pays: bool = False


# Exceptions are the papers'. LCPO-Exact and ShorterBetter pay for nearness to a target, also wrong responses. LCPO-Max
# and ThinkPrune pay nothing for a right one that is far too long, and cosine punishes it; O1-Pruner pays 4 at most.
# DAST wants wrong responses to think more, up to the budget; a longer one may be nearer to a target. Cosine, which
# pays longer wrong ones more as well, charges what reaches `max_tokens`: it has to be the limit that cuts off.
PROPERTIES = {
    "accuracy": Property(shorter_pays=False, plain={}),
    "arora_zanette": Property(plain={"alpha": 0}),
    "cosine": Property({"max_tokens": 400}, ranks=False),
    "dast": Property({"max_tokens": 400}, cut_pays=True),
    "hapo": Property({"memory": dict.fromkeys("012345", 100)}, ceiling=1 - 0.7, plain={"weight": 0}),
    "kimi": Property(plain={"weight": 0}),
    "laser_d": Property(
        {"memory": {"targets": dict.fromkeys(["easy", "medium", "hard"], 150)}},
        shorter_pays=False,
        plain={"weight": 0},
    ),
    "lcpo_exact": Property(ranks=False, shorter_pays=False, plain={"alpha": 0}, cut_pays=True),
    "lcpo_max": Property(ranks=False, plain={"alpha": 0, "delta": 1}),
    "o1_pruner": Property(ranks=False, ceiling=4.0),
    "shorter_better": Property(ranks=False, plain={"alpha": 1, "beta": 0}, cut_pays=True),
    "thinkprune": Property({"limit_tokens": 200}, ranks=False, shorter_pays=False),
}


def formula(name: str):
    """The formula, with what it needs."""
    function = getattr(importlib.import_module(f"efficient_reasoning.rewards.{name}"), name)
    return functools.partial(function, **PROPERTIES[name].needed)


def rollouts(
    correct, lengths, groups=None, reference_tokens=100, reference_accuracy=0.5, budget_tokens=150, ids=()
) -> Rollouts:
    count = len(lengths)
    columns = {
        "reference_tokens": [reference_tokens] * count,
        "reference_accuracy": [reference_accuracy] * count,
        "budget_tokens": [budget_tokens] * count,
    }
    groups = [0] * count if groups is None else groups
    names = [str(group) for group in groups]
    return Rollouts(np.array(correct, float), np.array(lengths, float), np.array(groups), columns, ids, names)


def random_groups(seed: int) -> Rollouts:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(6), 8)
    return rollouts(rng.random(48) < 0.6, rng.integers(1, 300, 48), groups)


# ---- by hand ----


@pytest.mark.parametrize("name", FORMULAS)
def test_the_examples_of_the_docstrings_hold(name):
    results = doctest.testmod(importlib.import_module(f"efficient_reasoning.rewards.{name}"))
    assert results.attempted > 0
    assert results.failed == 0


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


BY_HAND = [
    ("accuracy", {}, rollouts([1, 0, 1], [10, 20, 30]), [1, 0, 1]),
    # Correct lengths 10 and 30: mean 20, deviation 10. The wrong response does not count in them.
    (
        "arora_zanette",
        {"alpha": 0.5},
        rollouts([1, 0, 1], [10, 999, 30]),
        [1 - sigmoid(-1) / 2, 0, 1 - sigmoid(1) / 2],
    ),
    # min 10, max 50: x is 0.5, 0 and -0.5; the second is wrong with x = 0, the third wrong with x = -0.5.
    ("kimi", {}, rollouts([1, 0, 0], [10, 30, 50]), [1.5, 0, -0.5]),
    ("kimi", {"weight": 0.4}, rollouts([1, 1, 0], [10, 30, 50]), [1.2, 1, -0.2]),
    ("o1_pruner", {}, rollouts([1, 0], [50, 200]), [1 + 1, -0.5 - 1]),
    ("o1_pruner", {"accuracy_weight": 1.0}, rollouts([1, 1], [80, 400]), [0.25 + 0.5, -0.75 + 0.5]),
    ("o1_pruner", {}, rollouts([1, 0], [1, 10_000]), [4, -0.99 - 1]),  # 99 + 1 is clipped
    ("o1_pruner", {"high": 200}, rollouts([1], [0]), [99 + 1]),  # L counts as at least 1
    ("lcpo_exact", {"alpha": 0.01}, rollouts([1, 1, 0], [150, 190, 110]), [1, 0.6, -0.4]),
    ("lcpo_max", {"alpha": 0.01}, rollouts([1, 1, 1, 0], [150, 250, 90, 90]), [0.5, 0, 1, 0]),
    ("lcpo_max", {"alpha": 0.01, "form": "released"}, rollouts([1, 1, 0], [150, 170, 110]), [1.5, 1.4, 0.7]),
    # Half are correct, of 100 tokens on average, of at most 400: the budget is 250.
    ("dast", {}, rollouts([1, 0, 1, 0], [50, 300, 150, 50]), [0.5 + 0.4, -0.1, 0.5 + 0.2, -0.72 - 0.1]),
    ("dast", {}, rollouts([0], [100]), [-0.9 * 0.75 - 0.1]),  # none is: the budget is all
    ("dast", {"max_tokens": 100}, rollouts([1, 1], [10, 90]), [0.5 + 0.4, 0.1]),  # the budget is 50; not below 0.1
    ("cosine", {}, rollouts([1, 0, 1, 0], [0, 0, 200, 200]), [2, -10, 1.5, -5]),
    ("cosine", {}, rollouts([1, 0], [400, 999]), [-10, -10]),
    ("cosine", {}, rollouts([0, 0], [0, 0], ids=[range(400), range(399)]), [-10, -10]),  # L is the thinking alone
    ("cosine", {"wrong_short": -1}, rollouts([0, 0], [0, 0], ids=[range(400), range(399)]), [-10, -1]),
    ("cosine", {"ngram_tokens": 2}, rollouts([1, 0], [0, 0], ids=[[1, 2, 3], [1, 2, 1, 2, 9]]), [2, -10.1]),
    ("shorter_better", {"beta": 0.01}, rollouts([1, 1, 0], [20, 60, 10]), [2, 1.6, -0.1]),
    ("shorter_better", {"beta": 0.01}, rollouts([0, 0], [20, 60]), [-0.2, -0.2]),  # to the mean length
    ("thinkprune", {}, rollouts([1, 1, 0], [200, 201, 10]), [1, 0, 0]),
]


@pytest.mark.parametrize(("name", "parameters", "given", "expected"), BY_HAND)
def test_formulas_by_hand(name, parameters, given, expected):
    np.testing.assert_allclose(formula(name)(given, **parameters), expected)


def test_groups_do_not_touch_each_other():
    both = rollouts([1, 1, 0, 1, 1, 1], [10, 30, 20, 100, 200, 150], [0, 0, 0, 1, 1, 1])
    for name in FORMULAS:
        parts = [
            formula(name)(rollouts(both.correct[half], both.lengths[half])) for half in (slice(0, 3), slice(3, 6))
        ]
        np.testing.assert_allclose(formula(name)(both), np.concatenate(parts))


# ---- by property ----


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", range(5))
def test_the_order_within_a_group_does_not_matter(name, seed):
    given = random_groups(seed)
    order = np.random.default_rng(seed).permutation(8)
    shuffled = (np.arange(6)[:, None] * 8 + order).ravel()
    again = rollouts(given.correct[shuffled], given.lengths[shuffled], given.groups)
    np.testing.assert_allclose(formula(name)(again), formula(name)(given)[shuffled])


def test_every_formula_has_its_properties():
    assert PROPERTIES.keys() == set(FORMULAS)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(name, {}) for name in FORMULAS] + [("arora_zanette", {"alpha": 0.99}), ("kimi", {"weight": 1.9})],
)
def test_every_correct_response_stands_above_every_wrong_one(name, parameters):
    """Or one that is far too long does not, where that is known of the reward."""
    if not PROPERTIES[name].ranks:
        _, long, wrong = formula(name)(rollouts([1, 1, 0], [150, 9000, 1]))
        assert long <= wrong
        return
    for seed in range(5):
        given = random_groups(seed)
        rewards = formula(name)(given, **parameters)
        assert rewards[given.correct == 1].min() > rewards[given.correct == 0].max()


@pytest.mark.parametrize("name", FORMULAS)
def test_of_correct_responses_the_shorter_earns_more(name):
    """Or not, as it is known of the reward."""
    pays = []
    for seed in range(5):
        given = random_groups(seed)
        rewards = formula(name)(given)
        for a, b in itertools.permutations(np.flatnonzero(given.correct), 2):
            if given.groups[a] == given.groups[b] and given.lengths[a] < given.lengths[b]:
                pays.append(rewards[a] > rewards[b] or rewards[a] == rewards[b] == PROPERTIES[name].ceiling)
    assert len(pays) > 100
    assert all(pays) == PROPERTIES[name].shorter_pays


@pytest.mark.parametrize("name", [name for name in FORMULAS if PROPERTIES[name].plain is not None])
def test_without_weight_a_reward_is_plain_accuracy(name):
    given = random_groups(0)
    np.testing.assert_array_equal(formula(name)(given, **PROPERTIES[name].plain), given.correct)


@pytest.mark.parametrize("name", FORMULAS)
def test_equal_lengths_leave_only_the_accuracy(name):
    rewards = formula(name)(rollouts([1, 0, 1, 0], [70] * 4))
    assert len(set(rewards.tolist())) == 2
    assert rewards[0] == rewards[2] > rewards[1] == rewards[3]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", range(5))
def test_being_wrong_never_pays(name, seed):
    """A response that is cut off is wrong at the length that it reached."""
    given = random_groups(seed)
    before = formula(name)(given)
    for index in np.flatnonzero(given.correct):
        cut = given.correct.copy()
        cut[index] = 0
        after = formula(name)(rollouts(cut, given.lengths, given.groups))
        beyond = name == "thinkprune" and given.lengths[index] > 200  # where being right does not pay either
        assert after[index] < before[index] or beyond or after[index] == before[index] == PROPERTIES[name].ceiling


@pytest.mark.parametrize("name", FORMULAS)
def test_truncation_never_pays(name):
    """Less than finishing right at any length below the limit, and no more than any finished wrong one of the group.

    Or the latter does not hold, as it is known of the reward.
    """
    pays = []
    for seed, limit in itertools.product(range(5), (150, 301)):
        given = random_groups(seed)
        limits = {"max_tokens": limit} if takes(name, "max_tokens") else {}
        lengths = np.minimum(given.lengths, limit - 1)
        before = formula(name)(rollouts(given.correct, lengths, given.groups), **limits)
        for index in range(len(lengths)):
            correct, reached = given.correct.copy(), lengths.copy()
            correct[index], reached[index] = 0, limit
            after = formula(name)(rollouts(correct, reached, given.groups), **limits)
            if given.correct[index]:
                beyond = name == "thinkprune" and lengths[index] > 200  # where being right does not pay either
                assert after[index] < before[index] or beyond
            wrong = (correct == 0) & (given.groups == given.groups[index])
            pays.append(after[index] > after[wrong].min())
    assert any(pays) == PROPERTIES[name].cut_pays


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(
    ("correct", "lengths"),
    [
        ([1, 0, 0], [10, 20, 30]),
        ([0, 0, 0], [10, 20, 30]),
        ([1, 1, 1], [20, 20, 20]),
        ([0, 0, 0], [20, 20, 20]),
        ([1], [0]),
        ([1, 1, 0], [99_999, 100_001, 1]),  # a wrong response some 100,000 deviations below the mean
    ],
)
def test_odd_groups_stay_finite(name, correct, lengths):
    with np.errstate(all="raise"):
        assert np.isfinite(formula(name)(rollouts(correct, lengths))).all()


# ---- the TRL side ----

PROMPT = "Compute 20 + 3.\n"


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


SHORT = ids("<think>20 + 3 = 23</think>23<|end|>")
LONG = ids("<think>20 + 3 = 23. Check: 20 + 3 = 23.</think>23<|end|>")
WRONG = ids("<think>20 + 3 = 24</think>24<|end|>")
CUT = ids("<think>20 + 3 = 23</think>23")
UNCLOSED = ids("<think>23<|end|>")
BATCH = [SHORT, LONG, WRONG, CUT, UNCLOSED]


def call(
    name: str, batch=BATCH, prompt=PROMPT, answer="23", task="numeric", columns=None, **parameters
) -> list[float]:
    """As TRL calls a reward function."""
    count = len(batch)
    columns = {"answer": [answer] * count, "task": [task] * count} | (columns or {})
    return get_length_reward(name, thinking=THINKING, **parameters)(
        prompts=[prompt] * count,
        completions=[TOKENIZER.decode(row, skip_special_tokens=True) for row in batch],
        completion_ids=batch,
        trainer_state=None,
        log_extra=None,
        **columns,
    )


def test_only_finished_and_closed_responses_can_be_right():
    assert call("accuracy") == [1, 1, 0, 0, 0]


def test_lengths_are_ids_without_the_end():
    columns = {"reference_tokens": [100] * 2, "reference_accuracy": [1.0] * 2}
    expected = [100 / (len(row) - 1) - 1 for row in (SHORT, LONG)]
    assert call("o1_pruner", [SHORT, LONG], columns=columns, high=1000) == pytest.approx(expected)


def test_thinking_can_be_counted_alone():
    """What moves into the answer costs nothing then, and is why the response is the default."""
    moved = ids("<think>2</think>20 + 3 = 23. Check: 20 + 3 = 23.<|end|>")
    assert call("kimi", [SHORT, moved], count="thinking") == [0.5, 1.5]
    assert call("kimi", [SHORT, moved]) == [1.5, 0.5]


def test_a_prompt_that_opens_the_block_is_known_to():
    batch = [ids("20 + 3 = 23</think>23<|end|>"), ids("23</think>24<|end|>")]
    columns = {"reference_tokens": [100] * 2, "reference_accuracy": [1.0] * 2}
    rewards = call("o1_pruner", batch, PROMPT + "<think>", columns=columns, count="thinking", accuracy_weight=100)
    assert rewards[0] == 4.0 > rewards[1]


def remembering(reward, *batches: list) -> list[list[float]]:
    """What it pays for one batch after the other, all of one problem."""
    columns = {"completions": [""] * 2, "prompts": [PROMPT] * 2, "answer": ["23"] * 2, "task": ["numeric"] * 2}
    return [reward(completion_ids=batch, **columns) for batch in batches]


def test_hapo_compares_with_the_batches_before():
    reward = get_length_reward("hapo", thinking=THINKING)
    first, second, third = remembering(reward, [LONG, WRONG], [SHORT, LONG], [SHORT, CUT])
    assert first == [1, 0]  # nobody knows a length yet
    assert second == pytest.approx([1 + np.cos(np.pi / 2 * (len(SHORT) - 1) / (len(LONG) - 1)), 1])
    assert third == pytest.approx([1, min(0, np.cos(np.pi / 2 * len(CUT) / (len(SHORT) - 1)))])
    assert list(reward.memory["formula"].values()) == [len(SHORT) - 1]
    other = get_length_reward("hapo", thinking=THINKING)
    other.memory = json.loads(json.dumps(reward.memory))  # as a checkpoint holds it
    assert remembering(other, [SHORT, LONG]) == remembering(reward, [SHORT, LONG])


def test_laser_d_pays_within_the_targets_of_the_batches_before():
    reward = get_length_reward("laser_d", thinking=THINKING, refresh_batches=2)
    batches = [SHORT, LONG], [SHORT, LONG], [SHORT, LONG], [SHORT, WRONG]
    assert remembering(reward, *batches) == [[1, 1], [1, 1], [1.5, 1.5], [1, 0]]  # the last group is a medium one
    assert reward.memory["formula"]["targets"] == {"easy": len(LONG) - 1, "medium": len(SHORT) - 1}


@pytest.mark.parametrize(("name", "batches"), [("laser_d", 2), ("hapo", 1)])
def test_groups_without_anything_to_compare_with_are_not_called_uninformative(name, batches):
    reward = get_length_reward(name, thinking=THINKING, **({"refresh_batches": 2} if name == "laser_d" else {}))
    batch = {"completions": [""] * 2, "prompts": [PROMPT] * 2, "completion_ids": [SHORT, LONG]}
    for number in range(batches + 2):
        heard = {}
        reward(**batch, answer=["23"] * 2, task=["numeric"] * 2, log_metric=heard.__setitem__)
        assert ("informative_groups" in heard) == (number >= batches)


def test_laser_d_takes_the_length_in_which_one_answer_is_to_be_expected():
    from efficient_reasoning.rewards.laser_d import remember

    groups = np.repeat(np.arange(3), 8)
    correct = np.concatenate([np.ones(8), [1, 1, 1, 1, 0, 0, 0, 0], np.zeros(8)])
    lengths = np.tile(np.arange(10, 90, 10), 3)
    memory = remember(Rollouts(correct, lengths, groups), {}, refresh_batches=1)
    assert memory["targets"] == {"easy": 20, "medium": 40, "hard": 80}  # shares of 1/5, 1/2 and 1


def both_ranks(program: str) -> list[subprocess.Popen]:
    command = [sys.executable, "-c", program]
    return [subprocess.Popen([*command, rank], stdout=subprocess.PIPE, text=True) for rank in "01"]


def test_all_processes_remember_the_batches_of_all(tmp_path):
    program = f"""
import sys, numpy, torch.distributed as distributed
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=rank, world_size=2)
from efficient_reasoning.rewards import Rollouts, _of_all_processes
own = Rollouts(numpy.ones(3), numpy.arange(3) + 10 * rank, numpy.array([0, 0, 1]), problems=[str(rank)] * 3)
both = _of_all_processes(own)
print(both.lengths.tolist(), both.groups.tolist(), both.problems)
"""
    said = {process.communicate(timeout=120)[0] for process in both_ranks(program)}
    assert said == {"[0, 1, 2, 10, 11, 12] [0, 0, 1, 2, 2, 3] ['0', '0', '0', '1', '1', '1']\n"}


def test_a_new_prompt_begins_a_new_group():
    reward = get_length_reward("kimi", thinking=THINKING)
    batch = {"completion_ids": [SHORT, LONG, LONG, LONG], "answer": ["23"] * 4, "task": ["numeric"] * 4}
    other = PROMPT + " \n"
    assert reward(completions=[""] * 4, prompts=[PROMPT, PROMPT, other, other], **batch) == [1.5, 0.5, 1, 1]
    assert reward(completions=[""] * 4, prompts=[PROMPT] * 4, **batch) == [1.5, 0.5, 0.5, 0.5]


def test_the_logger_hears_what_became_of_accuracy_and_length():
    heard = {}
    empty = ids("<think></think>23<|end|>")
    columns = {"log_metric": heard.__setitem__, "budget_tokens": [20] * 4}
    call("lcpo_exact", [SHORT, empty, WRONG, CUT], columns=columns)
    lengths = [len(SHORT) - 1, len(empty) - 1, len(WRONG) - 1, len(CUT)]
    assert heard == {
        "accuracy": 0.5,
        "empty_thinking": 0.25,
        "informative_groups": 1.0,
        "tokens/correct": sum(lengths[:2]) / 2,
        "tokens/wrong": sum(lengths[2:]) / 2,
        "budget_error": sum(abs(20 - length) for length in lengths) / 4,
    }
    heard.clear()
    call("kimi", [WRONG], columns={"log_metric": heard.__setitem__})
    assert heard.keys() == {"accuracy", "empty_thinking", "informative_groups", "tokens/wrong"}
    assert heard["informative_groups"] == 0


def test_a_reward_with_a_memory_and_a_gate_is_the_same_on_all_processes(tmp_path):
    program = f"""
import sys, torch.distributed as distributed
from tests.rewards import test_rewards as here
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=rank, world_size=2)
reward = here.get_length_reward("hapo", thinking=here.THINKING, shaping={{"gate": "batch"}})
prompts, batch = [here.PROMPT + " " * rank] * 2, [[here.SHORT, here.LONG], [here.WRONG, here.CUT]][rank]
columns = {{"answer": ["23"] * 2, "task": ["numeric"] * 2, "log_metric": lambda *_: None}}
reward(completions=[""] * 2, prompts=prompts, completion_ids=batch, **columns)
print(len(reward.memory["formula"]), list(reward.memory["formula"].values()), reward.memory["shaping"])
"""
    said = {process.communicate(timeout=120)[0] for process in both_ranks(program)}
    assert said == {f"1 [{len(SHORT) - 1}] {{'batches': 1, 'best_accuracy': 0.5}}\n"}


def test_a_group_that_two_processes_share_is_refused(tmp_path):
    program = f"""
import sys, torch.distributed as distributed
distributed.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=int(sys.argv[1]), world_size=2)
from efficient_reasoning.rewards import _check_groups_are_whole
_check_groups_are_whole([["a", "b"], ["c", "a"]][int(sys.argv[1])])
try:
    _check_groups_are_whole([["a", "b"], ["b", "c"]][int(sys.argv[1])])
except ValueError as error:
    print(error)
"""
    said = [process.communicate(timeout=120)[0] for process in both_ranks(program)]
    assert all("split over two processes" in text and "a multiple of num_generations" in text for text in said)


@pytest.mark.parametrize("name", FORMULAS)
def test_rewards_pickle_together_with_their_tokenizer(name):
    needed = {key: value for key, value in PROPERTIES[name].needed.items() if key != "memory"}
    reward = pickle.loads(pickle.dumps(get_length_reward(name, thinking=THINKING, **needed)))
    assert reward.__name__ == name
    columns = {"reference_tokens": [20.0], "reference_accuracy": [0.5], "answer": ["23"], "task": ["numeric"]}
    columns |= {"budget_tokens": [20]}
    [value] = reward(completions=[""], prompts=[PROMPT], completion_ids=[SHORT], **columns)
    assert np.isfinite(value)


def test_the_verifier_gets_all_of_the_problem(monkeypatch):
    """A judge is asked with the question, and metadata names it."""
    asked = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": "CORRECT"}}]}).encode())

        def log_message(self, *_):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        columns = {"question": ["How many?"], "metadata": [{"judge_model": "tiny"}]}
        assert call("accuracy", [SHORT], task="judge", columns=columns) == [1.0]
        server.shutdown()
    [message] = asked
    assert "How many?" in message


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("kimmi", {}, "Unknown length reward 'kimmi', did you mean kimi"),
        ("o1pruner", {}, "did you mean o1_pruner"),
        ("ppo", {}, "known are accuracy, arora_zanette"),
        ("kimi", {"wieght": 1.0}, "'kimi' has no parameter 'wieght', did you mean weight"),
        ("accuracy", {"alpha": 1.0}, "'accuracy' has no parameter 'alpha'; known are count, shaping"),
        ("kimi", {"weight": "high"}, "weight must be a number, found 'high'"),
        ("kimi", {"weight": None}, "weight must be a number, found None"),
        ("kimi", {"count": "answer"}, "count is 'answer'"),
        ("kimi", {"weight": float("nan")}, "weight must be a number, found nan"),
        ("kimi", {"max_tokens": 100}, "'kimi' has no parameter 'max_tokens'"),
        ("dast", {"max_tokens": 0}, "max_tokens is 0; give a whole number of at least 1"),
        ("dast", {"max_tokens": 99.5}, "max_tokens is 99.5; give a whole number"),
        ("cosine", {"max_tokens": 100, "ngram_tokens": -3}, "ngram_tokens is -3; give a whole number"),
        ("lcpo_max", {"form": "both"}, "form is 'both'; choose paper or released"),
        ("kimi", {"weight": -0.1}, "'kimi': weight is -0.1; give at least 0"),
        ("arora_zanette", {"alpha": 1.5}, "alpha is 1.5; give a number between 0 and 1"),
        ("arora_zanette", {"alpha": -0.2}, "alpha is -0.2; give a number between 0 and 1"),
        ("lcpo_exact", {"alpha": -1}, "alpha is -1; give at least 0"),
        ("lcpo_max", {"delta": 2}, "delta is 2; give a number between 0 and 1"),
        ("cosine", {"max_tokens": 9, "repetition_penalty": -1}, "repetition_penalty is -1; give at least 0"),
        ("hapo", {"low": 0.5}, "low is 0.5; give a number between -1 and 0"),
        ("o1_pruner", {"low": 5}, "low is 5 and high is 4.0; give a high above low"),
        ("o1_pruner", {"low": 1, "high": -1}, "low is 1 and high is -1; give a high above low"),
        ("dast", {}, "'dast' needs max_tokens; give it among its parameters"),
        ("thinkprune", {"limit": 5}, "'thinkprune' has no parameter 'limit'.* limit_tokens"),
    ],
)
def test_bad_names_and_values_are_refused(name, parameters, sentence):
    with pytest.raises(BadInput, match=sentence):
        get_length_reward(name, thinking=THINKING, **parameters)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("kimi", "answer"),
        ("kimi", "task"),
        ("o1_pruner", "reference_tokens"),
        ("o1_pruner", "reference_accuracy"),
        ("lcpo_exact", "budget_tokens"),
        ("lcpo_max", "budget_tokens"),
    ],
)
def test_a_missing_column_is_named(name, column):
    columns = {"answer": ["23"], "task": ["numeric"], "reference_tokens": [9], "reference_accuracy": [1.0]}
    columns["budget_tokens"] = [9]
    del columns[column]
    with pytest.raises(BadInput, match=f"needs column '{column}'"):
        get_length_reward(name, thinking=THINKING)([""], [SHORT], [PROMPT], **columns)


@pytest.mark.parametrize("value", [None, "many", "64", [64], float("nan"), True, np.True_, np.float64("nan")])
def test_a_column_without_numbers_is_named(value):
    columns = {"answer": ["23"], "task": ["numeric"], "budget_tokens": [value]}
    with pytest.raises(BadInput, match="needs a number in column 'budget_tokens' of every row, found"):
        get_length_reward("lcpo_exact", thinking=THINKING)([""], [SHORT], [PROMPT], **columns)


@pytest.mark.parametrize("value", [np.int64(64), np.float32(64), Fraction(64)])
def test_a_number_is_one_whoever_made_it(value):
    given = Rollouts(np.ones(1), np.ones(1), np.zeros(1, int), {"budget_tokens": [value]})
    assert given.column("budget_tokens").tolist() == [64.0]


@pytest.mark.parametrize("name", ["arora_zanette", "lcpo_exact"])
def test_no_weight_at_all_is_a_control(name):
    assert get_length_reward(name, thinking=THINKING, alpha=0).parameters == {"alpha": 0}


def test_it_is_known_who_wants_the_greatest_length():
    assert [name for name in FORMULAS if takes(name, "max_tokens")] == ["cosine", "dast"]
