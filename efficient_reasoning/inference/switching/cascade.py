"""Model switch: a small model first, or instead, where it will do.

1. `cascade` lets the small model try, and asks the large one where that is not sure of its answer: by the mean
   probability of what it wrote, by how many of several samples agree (FrugalGPT, arXiv 2305.05176; AutoMix, arXiv
   2310.12963), or by a confidence token: how probable it finds it behind its answer (P(True), arXiv 2207.05221;
   Self-REF, arXiv 2410.13284).
2. `router` chooses one of both before they begin, by a probe of the small model that predicts both pass rates
   (RouteLLM, arXiv 2406.18665).
3. Both models read and write the same ids. Whatever the small one decodes is in the ledger, in its own operations; a
   budget of tokens bounds both together.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import BudgetForcing
from efficient_reasoning.inference.engine import HIDDEN, LOGPROBS, SCORE, Likelihood, Rating
from efficient_reasoning.inference.others import hand_over, load_small
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.search.samples import agreement, check_samples, choose
from efficient_reasoning.inference.strategy import Assignment, Bound, Exchange, Response, Steps, think_limit
from efficient_reasoning.inference.switching.probe import ProbeRater
from efficient_reasoning.inference.switching.switch import load_probe, question, slow_gain


@dataclass(frozen=True)
class Cascade:
    """Ask a small model, and the large one where it is not sure.

    Args:
        small: folder or Hub id.
        samples: of the small model. One is as sure as the geometric mean of its tokens' probabilities, several as many
            of them as agree.
        claim: text that would follow the answer of the one sample, which is then as sure as the last token of this is
            probable: a token that the model was trained to write there, or a question with "yes" behind it.
        threshold: confidence below which the large model is asked, in [0, 1].
    """

    small: str
    samples: int = 1
    claim: str | None = None
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_samples(samples=self.samples)
        if self.claim == "":
            raise BadInput("claim is empty; give the text whose last token says that the answer is right.")
        if self.claim is not None and self.samples > 1:
            raise BadInput(f"claim is asked of one sample, and samples is {self.samples}; leave out one of both.")
        if not 0 <= self.threshold <= 1:
            raise BadInput(f"threshold is {self.threshold}; give a share.")

    def bind(self, reasoner: Reasoner) -> Bound:
        """Raise BadInput for a small model that is the large one, or has another tokenizer."""
        needs = () if self.samples > 1 else {SCORE} if self.claim else {LOGPROBS}
        return Bound(functools.partial(self._solve, load_small(self.small, reasoner, needs)))

    def _solve(self, small: Reasoner, assignment: Assignment) -> Steps:
        """One request to the small model, a rating of a claim, and one request to the large model.

        A budget leaves each of them half; where that holds no answer of the small one, it is the large one's.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        theirs = hand_over(assignment, small)
        if assignment.budget_tokens is not None:
            share = assignment.budget_tokens // (2 * self.samples)
            if share <= len(theirs.thinking.empty()) + 4:  # what `answer_reserve` keeps
                return (yield from BudgetForcing().solve(assignment))
            theirs = replace(theirs, budget_tokens=share)
        response, confidence = yield from self._try(small, theirs)
        if confidence >= self.threshold:
            return response
        if assignment.budget_tokens is not None:
            left_tokens = assignment.budget_tokens - response.spend.tokens
            assignment = replace(assignment, budget_tokens=left_tokens)
        second = yield from BudgetForcing().solve(assignment)
        second.spend += response.spend
        return second

    def _try(self, small: Reasoner, theirs: Assignment) -> Exchange[tuple[Response, float]]:
        """What the small model answers, and how sure it is; of an answer that was cut off, not at all."""
        request = theirs.request([], theirs.limit_tokens, think_limit(theirs))
        asked = {"asked_about": True} if self.claim else {"logprobs": self.samples == 1}
        completions = yield [replace(request, n=self.samples, **asked)]
        responses = []
        for completion in completions:
            response = Response(prompt_ids=theirs.prompt_ids)
            response.append(completion)
            responses.append(response)
        if self.samples > 1:
            return choose(theirs, responses), agreement(theirs, responses)
        [completion], [response] = completions, responses
        if not completion.finished:
            return response, 0.0
        if self.claim is None:
            return response, completion.mean_probability
        return response, (yield from self._believe(small, theirs, response))

    def _believe(self, small: Reasoner, theirs: Assignment, response: Response) -> Exchange[float]:
        """The probability of the claim's last token behind the answer, in place of its end; it is charged."""
        *claim, token = small.tokenizer.encode(self.claim, add_special_tokens=False)
        said = [*response.ids[:-1], *claim]
        before = [*theirs.prompt_ids, *said]
        [rated] = yield [Rating([*before, token], len(before), Likelihood(small.engine), offset=len(said))]
        response.spend += rated.spend
        return math.exp(rated.values[0])


@dataclass(frozen=True)
class Router:
    """Ask a small model or the large one, as a probe of the small one says.

    Args:
        small: folder or Hub id.
        probe: file that `efficient-reasoning train fit_probe` wrote: of the small model, with its own traces as the
            fast ones, and the large model's as the slow ones.
        threshold: pass rate gained by the large model above which it is asked; that of the file by default.
    """

    small: str
    probe: str
    threshold: float | None = None

    def bind(self, reasoner: Reasoner) -> Bound:
        """Raise BadInput for a small model that is the large one, has another tokenizer, or is not the probe's."""
        small = load_small(self.small, reasoner, {HIDDEN})
        probe = load_probe(self.probe, small)
        rater = ProbeRater(probe, small.engine)
        threshold = probe.threshold if self.threshold is None else self.threshold
        return Bound(functools.partial(self._solve, small, rater, threshold))

    @staticmethod
    def _solve(small: Reasoner, rater: ProbeRater, threshold: float, assignment: Assignment) -> Steps:
        """One rating, and one response.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        think_limit(assignment)
        theirs = hand_over(assignment, small)
        [rated] = yield [question(theirs, rater)]
        asked = assignment if slow_gain(rated.values) > threshold else theirs
        response = yield from BudgetForcing().solve(asked)
        response.prompt_ids = asked.prompt_ids
        response.spend += rated.spend
        return response
