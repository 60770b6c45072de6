"""The configs of `rl_length` that are shipped."""

from __future__ import annotations

from pathlib import Path

from efficient_reasoning.config import parse
from efficient_reasoning.rl.algorithms import CONFIGS
from recipes.rl_length import LengthRewardArguments

FOLDER = Path(__file__).parents[2] / "configs/rl_length"


def test_every_algorithm_has_a_config():
    parsed = {
        path.stem: parse(LengthRewardArguments, trainer={"algorithm": CONFIGS}, argv=["--config", str(path)])[0]
        for path in sorted(FOLDER.glob("*_overthinker.yaml"))
    }
    assert {arguments.algorithm for arguments in parsed.values()} == CONFIGS.keys()
    assert parsed["concise_overthinker"].model == "overthinker"  # whose traces chose its problems
