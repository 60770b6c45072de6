"""Length rewards by a dotted name alone, which is all that TRL's own command line takes.

    LENGTH_REWARD_MODEL=my/model LENGTH_REWARD_PARAMETERS='{weight: 0.5}' \\
        trl grpo --model_name_or_path my/model --reward_funcs efficient_reasoning.rewards.named.kimi \\
        --scale_rewards batch ...

The tokenizer and the delimiters come from `LENGTH_REWARD_MODEL`, a folder or Hub id; `LENGTH_REWARD_PARAMETERS` is a
YAML mapping of the formula's parameters, `count` and `shaping`. The data set has `prompt`, `answer` and `task`.
"""

from __future__ import annotations

import os

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import FORMULAS, LengthReward, get_length_reward

_MODEL, _PARAMETERS = "LENGTH_REWARD_MODEL", "LENGTH_REWARD_PARAMETERS"


def __getattr__(name: str) -> LengthReward:
    if name not in FORMULAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import yaml

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format

    if not (model := os.environ.get(_MODEL)):
        raise BadInput(
            f"{_MODEL} is not set, and reward {name} needs its tokenizer; set it to the model's folder or id."
        )
    try:
        parameters = yaml.safe_load(os.environ.get(_PARAMETERS) or "{}")
    except yaml.YAMLError as error:
        raise BadInput(f"{_PARAMETERS} is no YAML ({' '.join(str(error).split())}); correct it.") from error
    if not isinstance(parameters, dict):
        raise BadInput(f"{_PARAMETERS} is {parameters!r}; give a mapping, such as {{weight: 0.5}}.")
    folder = resolve_model(model)
    return get_length_reward(name, thinking=thinking_format(folder, load_tokenizer(folder)), **parameters)
