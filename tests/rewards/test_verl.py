"""Length rewards as verl calls them, against the same rewards as TRL calls them.

verl is not installed here. `DataProto` stands for its class of that name (verl/protocol.py, v0.7.0): `batch`, a
mapping of tensors, `non_tensor_batch`, a mapping of object arrays, and a length. A batch holds what verl's agent loop
returns: prompts padded on the left and responses on the right, (B, P) and (B, T), one mask (B, P + T) over both, and
of each row `data_source`, `reward_model`, `extra_info`, `uid`, which are the columns that reach a reward manager.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import FORMULAS, get_length_reward
from efficient_reasoning.rewards.verl import ALONE, LengthRewardManager
from tests.rewards.test_rewards import CUT, LONG, SHORT, THINKING, TOKENIZER, WRONG

PROMPTS = ["Compute 20 + 3.\n", "What is 20 + 3?\n"]
ROLLOUTS = [SHORT, LONG, WRONG, CUT, WRONG, SHORT, LONG, LONG]  # four of each prompt
COLUMNS = {"task": "numeric", "budget_tokens": 12, "reference_tokens": 20.0, "reference_accuracy": 0.5}
# What each needs, and what makes more of it depend on the batch.
SETTINGS = {name: {} for name in FORMULAS} | {
    "cosine": {"max_tokens": 100},
    "dast": {"max_tokens": 100},
    "thinkprune": {"limit_tokens": len(SHORT)},
}


@dataclass
class DataProto:
    """verl's."""

    batch: dict[str, torch.Tensor]
    non_tensor_batch: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.batch["responses"])


def objects(values: list) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def padded(rows: list[list[int]], side: str, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, width) of ids, with a pad id that is no EOS, and their mask."""
    ids = torch.full((len(rows), width), TOKENIZER.pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return ids, mask


def verl_batch(order=range(8), sides=("left", "right"), extra=COLUMNS, ground_truth="23", uid=True) -> DataProto:
    order = list(order)
    prompts, prompt_mask = padded([TOKENIZER(PROMPTS[row // 4])["input_ids"] for row in order], sides[0], 20)
    responses, response_mask = padded([ROLLOUTS[row] for row in order], sides[1], 60)
    rows = {
        "data_source": objects(["sums"] * len(order)),
        "reward_model": objects([{"style": "rule", "ground_truth": ground_truth} for _ in order]),
        "extra_info": objects([{"split": "train", "index": row // 4} | extra for row in order]),
    }
    if uid:
        rows["uid"] = objects([f"uid {row // 4}" for row in order])
    attention_mask = torch.cat([prompt_mask, response_mask], dim=1)
    return DataProto({"prompts": prompts, "responses": responses, "attention_mask": attention_mask}, rows)


def trl_rewards(name: str, **parameters) -> list[float]:
    columns = {key: [value] * 8 for key, value in ({"answer": "23"} | COLUMNS).items()}
    prompts = [PROMPTS[row // 4] for row in range(8)]
    reward = get_length_reward(name, thinking=THINKING, **parameters)
    return reward(completions=[""] * 8, completion_ids=ROLLOUTS, prompts=prompts, **columns)


def manager(name: str, **settings) -> LengthRewardManager:
    """As verl 0.7.0 makes it."""
    given = {"num_examine": 0, "compute_score": print, "reward_fn_key": "data_source"}
    return LengthRewardManager(tokenizer=TOKENIZER, **given, reward=name, **settings)


def looped(name: str, **settings) -> LengthRewardManager:
    """As verl 0.7.1 and later make it."""
    config = SimpleNamespace(reward={"reward_kwargs": {"reward": name} | settings})
    given = {"compute_score": print, "reward_router_address": None, "reward_model_tokenizer": None}
    return LengthRewardManager(config=config, tokenizer=TOKENIZER, **given)


# ---- whole batches ----


@pytest.mark.parametrize("sides", [("left", "right"), ("right", "left")], ids=" ".join)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_reward_pays_what_it_pays_in_trl(name, sides):
    result = manager(name, **SETTINGS[name])(verl_batch(sides=sides), return_dict=True)
    reward_tensor = result["reward_tensor"]
    expected = trl_rewards(name, **SETTINGS[name])
    assert reward_tensor.shape == (8, 60) and reward_tensor.dtype == torch.float32
    places = [len(row) - 1 if sides[1] == "right" else 59 for row in ROLLOUTS]
    assert reward_tensor[range(8), places].tolist() == pytest.approx(expected)
    assert reward_tensor.sum(dim=1).tolist() == pytest.approx(expected)  # and nothing elsewhere
    assert result["reward_extra_info"] == {
        "acc": [1, 1, 0, 0, 0, 1, 1, 1],
        "tokens": [len(row) - (row is not CUT) for row in ROLLOUTS],  # the end counts not
    }


@pytest.mark.parametrize("name", ["kimi", "hapo", "o1_pruner"])
def test_groups_may_be_scattered(name):
    order = [3, 4, 0, 7, 1, 5, 2, 6]
    expected = trl_rewards(name)
    for data in (verl_batch(order), verl_batch(order, uid=False)):
        assert manager(name)(data).sum(dim=1).tolist() == pytest.approx([expected[row] for row in order])


def test_two_rows_with_one_prompt_are_two_groups():
    """As verl's advantages have it."""
    one = verl_batch(range(4))
    ids = {name: torch.cat([tensor, tensor]) for name, tensor in one.batch.items()}
    rows = {name: np.concatenate([values, values]) for name, values in one.non_tensor_batch.items()}
    rows["uid"] = objects([f"uid {row // 2}" for row in range(8)])
    # Two correct ones of different lengths, and two wrong ones.
    assert manager("shorter_better")(DataProto(ids, rows)).sum(dim=1)[0] == 2
    short, long = manager("kimi")(DataProto(ids, rows)).sum(dim=1)[:2].tolist()
    assert (short, long) == (1.5, 0.5)


def test_settings_reach_the_reward():
    settings = {"count": "thinking", "shaping": {"warmup_batches": 1}, "weight": 0.5}
    reward = manager("kimi", **settings)
    assert reward(verl_batch()).sum(dim=1).tolist() == [1, 1, 0, 0, 0, 1, 1, 1]
    expected = trl_rewards("kimi", weight=0.5, count="thinking")
    assert reward(verl_batch()).sum(dim=1).tolist() == pytest.approx(expected)


def test_a_memory_lasts_from_batch_to_batch():
    reward = manager("hapo")
    first, second = (reward(verl_batch()).sum(dim=1).tolist() for _ in range(2))
    assert first == trl_rewards("hapo") != second
    assert list(reward.reward.memory["formula"].values()) == [len(SHORT) - 1] * 2


def test_the_answer_is_the_ground_truth():
    """`extra_info["answer"]` of verl's GSM8K is a worked solution."""
    data = verl_batch(extra=COLUMNS | {"answer": "20 + 3 = 24 #### 24"})
    assert manager("accuracy")(data).sum() == 5
    data = verl_batch(extra=COLUMNS | {"answer": "23"}, ground_truth=None)
    assert manager("accuracy")(data).sum() == 5


def test_rows_without_a_task_take_that_of_the_settings():
    data = verl_batch(extra={})
    assert manager("accuracy", task="numeric")(data).sum() == 5
    with pytest.raises(BadInput, match=r"has no task; put it in its extra_info, or set reward_kwargs\.task"):
        manager("accuracy")(data)


def test_numbers_of_numpy_are_numbers():
    data = verl_batch(extra=COLUMNS | {"budget_tokens": np.int64(12)})
    assert manager("lcpo_exact")(data).sum(dim=1).tolist() == pytest.approx(trl_rewards("lcpo_exact"))


def test_an_empty_response_is_paid_where_it_would_begin():
    data = verl_batch()
    data.batch["attention_mask"][2, 20:] = 0
    assert manager("lcpo_exact")(data)[2].tolist() == pytest.approx([-0.0003 * 12] + [0] * 59)


def test_what_is_missing_is_named():
    extra = {name: value for name, value in COLUMNS.items() if name != "budget_tokens"}
    with pytest.raises(BadInput, match="needs column 'budget_tokens', which the training rows lack"):
        manager("lcpo_exact")(verl_batch(extra=extra))
    data = verl_batch()
    del data.non_tensor_batch["extra_info"][3]["budget_tokens"]
    with pytest.raises(BadInput, match="needs a number in column 'budget_tokens' of every row, found None"):
        manager("lcpo_exact")(data)
    with pytest.raises(BadInput, match=r"has no answer; put it in its reward_model\.ground_truth"):
        manager("kimi")(verl_batch(ground_truth=None))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reward": None}, "reward_kwargs name no reward; add one, such as reward_kwargs.reward=kimi"),
        ({"reward": "kimmi"}, "Unknown length reward 'kimmi', did you mean kimi"),
        ({"reward": "kimi", "wieght": 1}, "'kimi' has no parameter 'wieght', did you mean weight"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        LengthRewardManager(tokenizer=TOKENIZER, num_examine=0, **settings)


# ---- one response at a time ----


def one_by_one(reward: LengthRewardManager) -> list[dict]:
    return [asyncio.run(reward.run_single(verl_batch([row]))) for row in range(8)]


@pytest.mark.parametrize("name", ALONE)
def test_rewards_that_need_no_other_response_pay_the_same_alone(name):
    results = one_by_one(looped(name, **SETTINGS[name]))
    assert [row["reward_score"] for row in results] == pytest.approx(trl_rewards(name, **SETTINGS[name]))
    assert results[3]["reward_extra_info"] == {"acc": 0, "tokens": len(CUT)}


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in ALONE])
def test_the_others_would_not_and_are_refused(name):
    sentence = (
        f"Reward '{name}', with its shaping, needs whole batches.*take verl 0.7.0 with reward_model.use_reward_loop"
    )
    with pytest.raises(BadInput, match=sentence):
        looped(name, **SETTINGS[name])
    reward = manager(name, **SETTINGS[name])
    with pytest.raises(BadInput, match=sentence):  # as verl 0.6.0 calls it in its asynchronous mode
        reward(verl_batch([0]))
    reward.scores_alone = True
    alone = [[row["reward_score"] for row in one_by_one(reward)] for _ in range(25)]
    batches = [reward(verl_batch()).sum(dim=1).tolist() for reward in [manager(name, **SETTINGS[name])] for _ in alone]
    assert any(one != pytest.approx(other) for one, other in zip(alone, batches, strict=True))


def test_shaping_needs_whole_batches():
    with pytest.raises(BadInput, match="Reward 'accuracy', with its shaping, needs whole batches"):
        looped("accuracy", shaping={"warmup_batches": 1})


def test_several_outputs_of_a_rollout_are_refused():
    with pytest.raises(
        BadInput, match="verl's agent loop gave 2 outputs of a rollout; take the single-turn agent loop"
    ):
        asyncio.run(looped("accuracy").run_single(verl_batch([0, 1])))
