"""Length rewards: formulas of the survey's table as TRL reward functions.

    reward = get_length_reward("kimi", thinking=ThinkingFormat.from_tokenizer(tokenizer), weight=0.5)
    GRPOTrainer(reward_funcs=reward, args=GRPOConfig(scale_rewards="batch"), ...)  # rows: `prompt`, `answer`, `task`

1. A formula is a function of `Rollouts` (what came out, as arrays) and lives in a file of its own, with its paper.
2. `LengthReward` is the TRL side, the same for all: it counts ids, splits off the thinking on ids, verifies the answer
   with the verifiers that evaluation uses, and finds the groups. It pickles when its tokenizer does.
3. L is the whole response in token ids without EOS, unless `count="thinking"`: tokens that move from the thinking into
   the answer save nothing. A response without EOS was cut off and is wrong.
4. A formula with a keyword `memory` depends on earlier batches. Its file says in `remember` what becomes of the memory
   behind a batch: those of all processes together, so that all of them remember the same. `rl.reward_memory` saves it.
5. `shaping` says when the length counts at all: any formula can be had with a warm-up, a gate or a floor.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal, get_args

import numpy as np

from efficient_reasoning import answers
from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.problems import FIELDS
from efficient_reasoning.prompts import encode_prompt
from efficient_reasoning.rewards.shaping import Shaping
from efficient_reasoning.thinking import ThinkingFormat

FORMULAS = (
    "accuracy",
    "arora_zanette",
    "cosine",
    "dast",
    "hapo",
    "kimi",
    "laser_d",
    "lcpo_exact",
    "lcpo_max",
    "o1_pruner",
    "shorter_better",
    "thinkprune",
)
_AT_LEAST_0 = (0.0, math.inf)
_BOUNDS = {  # of parameters, included; beyond them a formula pays the opposite of what it is for
    "arora_zanette": {"alpha": (0.0, 1.0)},
    "cosine": {"repetition_penalty": _AT_LEAST_0},
    "hapo": {"weight": _AT_LEAST_0, "low": (-1.0, 0.0)},
    "kimi": {"weight": _AT_LEAST_0},
    "laser_d": {"weight": _AT_LEAST_0},
    "lcpo_exact": {"alpha": _AT_LEAST_0},
    "lcpo_max": {"alpha": _AT_LEAST_0, "delta": (0.0, 1.0)},
    "o1_pruner": {"accuracy_weight": _AT_LEAST_0},
    "shorter_better": {"alpha": _AT_LEAST_0, "beta": _AT_LEAST_0},
}
_MEMORY = "memory"  # the parameter of a formula that has one


@dataclass(frozen=True)
class Rollouts:
    """A batch of responses as arrays. N responses, consecutive ones with the same prompt form a group.

    Attributes:
        correct: (N,) 1.0 or 0.0; a response that was cut off is wrong.
        lengths: (N,) token ids.
        groups: (N,) group of each response, counted from 0.
        columns: the columns of the training rows, one value a response.
        ids: N lists of token ids, without EOS; may be left out where a formula reads lengths alone.
        problems: N names, the same for the same prompt in every batch; for formulas with a memory.
        empty: (N,) whether a response thinks nothing at all; for the metrics.
    """

    correct: np.ndarray
    lengths: np.ndarray
    groups: np.ndarray
    columns: Mapping[str, Sequence] = field(default_factory=dict)
    ids: Sequence[Sequence[int]] = ()
    problems: Sequence[str] = ()
    empty: Sequence[bool] = ()

    def column(self, name: str) -> np.ndarray:
        """A numeric column.

        Raises:
            BadInput: the training rows do not have it, or not a number in each.
        """
        if name not in self.columns:
            raise BadInput(f"The reward needs column {name!r}, which the training rows lack; add it to the data.")
        for value in self.columns[name]:
            if not _is_number(value):
                raise BadInput(f"The reward needs a number in column {name!r} of every row, found {value!r}.")
        return np.asarray(self.columns[name], dtype=np.float64)

    def per_group(self, statistic: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        """`statistic(lengths, correct)` of each group, spread over its responses: (N,)."""
        spread = np.empty(len(self.lengths))
        for group in np.unique(self.groups):
            members = self.groups == group
            spread[members] = statistic(self.lengths[members], self.correct[members])
        return spread


class LengthReward:
    """A formula as a TRL reward function: `f(completions, completion_ids, prompts, **columns) -> list[float]`.

    Args:
        name: of the formula.
        thinking: delimiters and tokenizer of the model that is trained.
        count: what L counts.
        shaping: settings of `Shaping`.
        parameters: of the formula.
    """

    def __init__(
        self,
        name: str,
        thinking: ThinkingFormat,
        count: Literal["response", "thinking"] = "response",
        shaping: Mapping[str, object] | None = None,
        **parameters,
    ):
        if count not in ("response", "thinking"):
            raise BadInput(f"count is {count!r}; a length reward counts the response or the thinking.")
        self.__name__ = name  # TRL names its metrics after it
        self.thinking = thinking
        self.count = count
        self.formula = _formula(name)
        check_parameters(name, parameters)
        self.parameters = parameters
        self.shaping = Shaping.of(shaping or {})
        self._memory: dict = {}
        self._has_checked_groups = False

    @property
    def remembers(self) -> bool:
        """Whether what it pays depends on earlier batches."""
        return _has_memory(self.__name__) or not self.shaping.is_plain

    @property
    def memory(self) -> dict[str, dict]:
        """Of earlier batches, as JSON: what the formula and its shaping have to know of them."""
        return {"formula": self._memory, "shaping": self.shaping.memory}

    @memory.setter
    def memory(self, memory: Mapping[str, dict]) -> None:
        self._memory, self.shaping.memory = memory["formula"], memory["shaping"]

    def __call__(
        self, completions: Sequence, completion_ids: Sequence[Sequence[int]], prompts: Sequence, **columns
    ) -> list[float]:
        """Rewards of a batch.

        Args:
            completions: texts; unused, since decoding loses what ids know.
            completion_ids: N lists of ids, EOS kept.
            prompts: N prompts; those of one group follow each other.
            columns: of the training rows, N values each; `answer` and `task` are needed.
        """
        log_metric = columns.pop("log_metric", None)
        starts = [index == 0 or prompt != prompts[index - 1] for index, prompt in enumerate(prompts)]
        groups = np.cumsum(starts) - 1
        tokenizer = self.thinking.tokenizer
        encoded = [encode_prompt(tokenizer, prompt) for prompt, first in zip(prompts, starts, strict=True) if first]
        rewards, rollouts = self.score(completion_ids, [encoded[group] for group in groups], groups, columns)
        if log_metric is not None:  # TRL's logger
            pays_length = self.shaping.pays_length
            if _has_memory(self.__name__):  # and may have nothing to compare with yet
                pays_length = pays_length and bool((rewards != rollouts.correct).any())
            for metric, value in _metrics(rollouts, rewards, pays_length).items():
                log_metric(metric, value)
        return rewards.tolist()

    def score(
        self,
        completion_ids: Sequence[Sequence[int]],
        prompt_ids: Sequence[Sequence[int]],
        groups: np.ndarray,
        columns: Mapping[str, Sequence],
    ) -> tuple[np.ndarray, Rollouts]:
        """Rewards of a batch whose prompts are ids already, for frameworks other than TRL.

        Args:
            completion_ids: N lists of ids, EOS kept.
            prompt_ids: N lists of ids, the same in a group.
            groups: (N,) counted from 0; the members of one follow each other.
            columns: as in a call.

        Returns:
            the rewards (N,), and what they were paid for.

        Raises:
            BadInput: a column is missing, or holds what the formula cannot use.
        """
        rollouts = self._rollouts(completion_ids, prompt_ids, groups, columns)
        if not self._has_checked_groups:
            _check_groups_are_whole(rollouts.problems)
            self._has_checked_groups = True
        remembers = _has_memory(self.__name__)
        rewards = self.formula(rollouts, **self.parameters, **({_MEMORY: self._memory} if remembers else {}))
        if remembers or not self.shaping.is_plain:
            everyone = _of_all_processes(rollouts)
            rewards = self.shaping(rewards, rollouts, everyone)
            if remembers:
                self._memory = _module(self.__name__).remember(everyone, self._memory, **self.parameters)
        return rewards, rollouts

    def _rollouts(
        self, completion_ids: Sequence, prompt_ids: Sequence, groups: np.ndarray, columns: Mapping[str, Sequence]
    ) -> Rollouts:
        for name in ("answer", "task"):
            if name not in columns:
                raise BadInput(f"The reward needs column {name!r}, which the training rows lack; add it to the data.")
        lengths, texts, generated, empty = [], [], [], []
        for ids, prompt in zip(completion_ids, prompt_ids, strict=True):
            split, counts = self.thinking.take_apart(ids, prompt)
            lengths.append(counts.thinking_tokens if self.count == "thinking" else counts.total_tokens)
            finished = not self.thinking.eos_ids.isdisjoint(ids)
            decode = self.thinking.tokenizer.decode
            texts.append(decode(split.answer_ids, skip_special_tokens=True) if finished else "")
            generated.append(ids[: counts.total_tokens])
            empty.append(not counts.thinking_tokens)
        # Verifiers may ask for all of a problem.
        problems = [{key: columns[key][index] for key in FIELDS if key in columns} for index in range(len(texts))]
        correct = answers.verify_many(problems, texts)
        by_group = dict(zip(groups.tolist(), prompt_ids, strict=True))
        names = {group: hashlib.sha256(str(ids).encode()).hexdigest()[:16] for group, ids in by_group.items()}
        named = [names[group] for group in groups.tolist()]
        arrays = np.array(correct, np.float64), np.array(lengths, np.float64), groups
        return Rollouts(*arrays, columns, generated, named, empty)


def get_length_reward(name: str, *, thinking: ThinkingFormat, **parameters) -> LengthReward:
    """A length reward by its paper's short name in lower-snake case.

    Args:
        name: one of `FORMULAS`.
        thinking: delimiters and tokenizer of the model that is trained.
        parameters: of the formula, `count` and `shaping`.

    Raises:
        BadInput: unknown name or parameter (near names are listed), one that is missing, or a wrong value.
    """
    return LengthReward(name, thinking, **parameters)


def pay(name: str, rollouts: Rollouts, **parameters) -> np.ndarray:
    """Rewards (N,) of responses that were generated before.

    Raises:
        BadInput: unknown name or parameter, a column that is missing, or a formula with a memory: it pays in training.
    """
    check_parameters(name, parameters)
    if _has_memory(name):
        raise BadInput(f"Length reward {name!r} remembers earlier batches, and only pays in training; choose another.")
    return _formula(name)(rollouts, **parameters)


def _formula(name: str) -> Callable[..., np.ndarray]:
    if name not in FORMULAS:
        raise BadInput(f"Unknown length reward {name!r}{near(name, FORMULAS)}")
    return getattr(_module(name), name)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"efficient_reasoning.rewards.{name}")


def needed_columns(name: str) -> tuple[str, ...]:
    """Numeric columns that a formula reads, beside `answer` and `task`."""
    _formula(name)
    return getattr(_module(name), "COLUMNS", ())


def takes(name: str, parameter: str) -> bool:
    """Whether a formula has this parameter."""
    return parameter in _parameters(name)


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    parameters = dict(list(inspect.signature(_formula(name), eval_str=True).parameters.items())[1:])
    parameters.pop(_MEMORY, None)
    return parameters


def _has_memory(name: str) -> bool:
    return _MEMORY in inspect.signature(_formula(name)).parameters


def _metrics(rollouts: Rollouts, rewards: np.ndarray, pays_length: bool) -> dict[str, float]:
    """What tells a reward that works from one that is gamed, or that teaches nothing; means over responses.

    Where accuracy alone is paid, a group that is all right teaches nothing, and means nothing.
    """
    right = rollouts.correct > 0
    alike = [np.ptp(rewards[rollouts.groups == group]) == 0 for group in np.unique(rollouts.groups)]
    metrics = {"accuracy": right.mean(), "empty_thinking": np.mean(rollouts.empty)}
    if pays_length:
        metrics["informative_groups"] = 1 - np.mean(alike)
    for name, members in (("correct", right), ("wrong", ~right)):
        if members.any():
            metrics[f"tokens/{name}"] = rollouts.lengths[members].mean()
    if all(map(_is_number, rollouts.columns.get("budget_tokens", [None]))):
        metrics["budget_error"] = np.abs(rollouts.column("budget_tokens") - rollouts.lengths).mean()
    return {name: float(value) for name, value in metrics.items()}


def _check_groups_are_whole(problems: Sequence[str]) -> None:
    """Whether no group goes on in the next process, where statistics of it would be those of a part.

    Raises:
        BadInput: one does.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    ends = [None] * distributed.get_world_size()
    distributed.all_gather_object(ends, (problems[0], problems[-1]))
    if any(end == begin for (_, end), (begin, _) in itertools.pairwise(ends)):
        raise BadInput(
            "A group of responses to one prompt is split over two processes, and a length reward compares whole "
            "groups; make per_device_train_batch_size times steps_per_generation a multiple of num_generations."
        )


def _of_all_processes(rollouts: Rollouts) -> Rollouts:
    """The batch of all processes of a training run, in the same order on each, without columns and ids."""
    from torch import distributed

    own = rollouts.correct, rollouts.lengths, rollouts.groups, list(rollouts.problems)
    parts = [own]
    if distributed.is_available() and distributed.is_initialized():
        parts = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, own)
    correct, lengths, groups, problems = zip(*parts, strict=True)
    firsts = itertools.accumulate((numbers[-1] + 1 for numbers in groups), initial=0)
    numbered = [numbers + first for numbers, first in zip(groups, firsts, strict=False)]
    return Rollouts(*map(np.concatenate, (correct, lengths, numbered)), problems=list(itertools.chain(*problems)))


def check_parameters(name: str, given: Mapping[str, object]) -> None:
    """Whether a formula takes these parameters.

    Raises:
        BadInput: unknown name or parameter, one that is missing, or a wrong value.
    """
    known = _parameters(name)
    for key, value in given.items():
        if key not in known:
            raise BadInput(f"Length reward {name!r} has no parameter {key!r}{near(key, [*known, 'count', 'shaping'])}")
        kind = known[key].annotation
        choices = get_args(kind)
        if choices and value not in choices:
            raise BadInput(f"Length reward {name!r}: {key} is {value!r}; choose {' or '.join(choices)}.")
        if not choices and not _is_number(value):
            raise BadInput(f"Length reward {name!r}: {key} must be a number, found {value!r}.")
        if kind is int and (type(value) is not int or value < 1):  # a number of tokens
            raise BadInput(f"Length reward {name!r}: {key} is {value!r}; give a whole number of at least 1.")
        low, high = _BOUNDS.get(name, {}).get(key, (-math.inf, math.inf))
        if not choices and not low <= value <= high:
            wanted = f"at least {low:g}" if high == math.inf else f"a number between {low:g} and {high:g}"
            raise BadInput(f"Length reward {name!r}: {key} is {value!r}; give {wanted}.")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in given:
            raise BadInput(f"Length reward {name!r} needs {key}; give it among its parameters.")
    if {"low", "high"} <= known.keys():
        low, high = (given.get(key, known[key].default) for key in ("low", "high"))
        if low >= high:
            raise BadInput(f"Length reward {name!r}: low is {low!r} and high is {high!r}; give a high above low.")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
