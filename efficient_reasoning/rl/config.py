"""GRPOConfig as length rewards need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig


@dataclass
class LengthRewardConfig(GRPOConfig):
    """GRPOConfig that does not scale advantages group by group.

    A group that is all correct differs in length alone, and its own deviation divides the weight of the length out.
    """

    scale_rewards: Literal["group", "batch", "none"] = field(
        default="batch", metadata={"help": "Deviation that advantages are divided by; group undoes a length's weight."}
    )
