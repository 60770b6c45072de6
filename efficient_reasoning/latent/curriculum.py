"""What a model is shown of a chain at which stage: the rows of Coconut, CODI, ICoT, and their controls.

1. Coconut (arXiv 2412.06769): in stage s the first s steps of a chain are replaced by c latents each; behind
   `max_stage` no step is left, and the latents stay. `pause` is the same curriculum with a learnt token in place of
   every latent, which shows what recycling hidden states adds. `sim_cot` (arXiv 2509.20317) is the same curriculum,
   and remembers which steps latents stand for: those of the last stage for all that no other latents do.
2. CODI (arXiv 2502.21074) has no stages: latents replace the whole chain at once, as many as Coconut's last stage has,
   and a teacher's row with the chain in words stands beside.
3. ICoT (arXiv 2405.14838): in stage s the first s times `removed_tokens` tokens of a chain are left out, and nothing
   comes in their place. A few more are, drawn anew for every row, so that the next stage is no surprise.
4. `cot` keeps all steps, `no_cot` none; they have no stages.
5. Latents stand before the thinking, between markers of their own, and are given at inference as well: question,
   bot, latents, eot. What the model writes is what it always writes: open, the steps that are left, close, answer.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.passes import Row

Method = Literal["coconut", "sim_cot", "codi", "pause", "icot", "cot", "no_cot"]
_OFFSET_DECAY = 4.0  # of ICoT: one token more is e^4 times as rare


@dataclass(frozen=True)
class Example:
    """A solved problem.

    Attributes:
        question_ids: the whole prompt.
        step_ids: of each step of the chain, the line break that ends it included.
        answer_ids: with the end token.
    """

    question_ids: Sequence[int]
    step_ids: Sequence[Sequence[int]]
    answer_ids: Sequence[int]


@dataclass(frozen=True)
class Markers:
    """The tokens around.

    Attributes:
        open_ids, close_ids: the model's delimiters of thinking.
        bot_id, eot_id: begin and end of the latents.
        pause_id: what `pause` shows instead of them.
    """

    open_ids: Sequence[int]
    close_ids: Sequence[int]
    bot_id: int
    eot_id: int
    pause_id: int


@dataclass(frozen=True)
class Curriculum:
    """Makes rows of examples.

    Attributes:
        method: see above.
        steps_per_stage: of the optimizer.
        max_stage: the last stage in which steps are replaced one by one; of ICoT the last stage; of CODI, which has
            none, the steps that latents stand for.
        latents_per_step: c.
        uniform_prob: probability that an example is shown at any stage up to its number of steps instead.
        mixed_stages: draw an earlier stage i for every example, i + 1 times as often as the first.
        removed_tokens: of ICoT, in each stage.
    """

    method: Method
    steps_per_stage: int
    max_stage: int = 6
    latents_per_step: int = 1
    uniform_prob: float = 0.0
    mixed_stages: bool = False
    removed_tokens: int = 8

    def __post_init__(self) -> None:
        for name in ("steps_per_stage", "max_stage", "latents_per_step", "removed_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give at least 1.")
        if not 0 <= self.uniform_prob <= 1:
            raise BadInput(f"uniform_prob is {self.uniform_prob}; give a number between 0 and 1.")

    @property
    def last_stage(self) -> int:
        if self.method in ("coconut", "sim_cot", "pause"):
            return self.max_stage + 1
        return self.max_stage if self.method == "icot" else 0

    @property
    def has_latents(self) -> bool:
        return self.method in ("coconut", "sim_cot", "codi")

    @property
    def most_latents(self) -> int:
        """Of a row, in any stage, pauses included."""
        return self.max_stage * self.latents_per_step if self.has_latents or self.method == "pause" else 0

    def stage(self, step: int) -> int:
        """Of an optimizer step, the first of which is 0."""
        return min(step // self.steps_per_stage, self.last_stage)

    def begins_stage(self, step: int) -> bool:
        """Whether an optimizer step is the first of a later stage, before which the optimizer starts anew."""
        return step > 0 and self.stage(step) != self.stage(step - 1)

    def row(self, example: Example, stage: int, markers: Markers, rng: random.Random) -> Row:
        """What is shown of an example in a stage."""
        if self.method == "codi":
            return self._latent_row(example, self.max_stage + 1, markers)
        if self.has_latents or self.method == "pause":
            return self._latent_row(example, self._drawn(stage, len(example.step_ids), rng), markers)
        chain = list(itertools.chain.from_iterable(example.step_ids))
        if self.method == "no_cot":
            chain = []
        elif self.method == "icot" and stage:
            chain = chain[stage * self.removed_tokens + _offset(rng) :]
        return Row(example.question_ids, 0, self._response(chain, example, markers))

    def teacher_row(self, example: Example, markers: Markers) -> Row | None:
        """What CODI's teacher is shown of an example; None of other methods."""
        if self.method != "codi":
            return None
        return Row(example.question_ids, 0, self._response(itertools.chain(*example.step_ids), example, markers))

    @staticmethod
    def _response(chain: Iterable[int], example: Example, markers: Markers) -> list[int]:
        return [*markers.open_ids, *chain, *markers.close_ids, *example.answer_ids]

    def _drawn(self, stage: int, steps: int, rng: random.Random) -> int:
        if rng.random() < self.uniform_prob:
            return rng.randint(0, min(steps, self.max_stage))
        if self.mixed_stages:
            return rng.choices(range(stage + 1), weights=range(1, stage + 2))[0]
        return stage

    def _latent_row(self, example: Example, stage: int, markers: Markers) -> Row:
        # As many for a chain with fewer steps: at inference nobody knows how many it would have.
        latents = self.latents_per_step * min(stage, self.max_stage)
        left = example.step_ids[stage:] if stage <= self.max_stage else []
        completion = [markers.eot_id, *self._response(itertools.chain.from_iterable(left), example, markers)]
        prompt = [*example.question_ids, markers.bot_id]
        if self.method == "pause":
            return Row([*prompt, *[markers.pause_id] * latents], 0, completion, given=1)
        return Row(prompt, latents, completion, given=1, step_ids=self._replaced(example, latents, not left))

    def _replaced(self, example: Example, latents: int, all_of_them: bool) -> Sequence[Sequence[int]]:
        """Ids of the steps that latents stand for, c for each; the last c for the whole rest of the chain."""
        if self.method not in ("sim_cot", "codi"):
            return ()
        steps = [list(step) for step in example.step_ids]
        own = steps[: latents // self.latents_per_step]
        if own and all_of_them:
            own[-1] = [*own[-1], *itertools.chain.from_iterable(steps[len(own) :])]
        return own


def _offset(rng: random.Random) -> int:
    """How many tokens more are removed: k with probability (1 - 1/e^4) / e^4k."""
    return int(-math.log(1 - rng.random()) / _OFFSET_DECAY)
