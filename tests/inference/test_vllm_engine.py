"""The vLLM engine around a stand-in for vLLM (`fake_vllm`), and the command that serves a checkpoint.

scripts/bench/vllm_smoke.py asks the same of a real one.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import serve
from efficient_reasoning.inference.engine import (
    IN_LOOP,
    LOGIT_BIAS,
    LOGPROBS,
    SCORE,
    ForcedClose,
    Request,
    Sampling,
)
from efficient_reasoning.inference.guard import Guard, Rules
from efficient_reasoning.inference.vllm_engine import VllmEngine

FOLDER = resolve_model("overthinker")
THINKING = thinking_format(FOLDER, load_tokenizer(FOLDER))
GREEDY = Sampling(temperature=0)
PROMPT = [20, 21, 22]


def keep_rules(settings, prompt):
    rules = Rules.read(getattr(settings, "extra_args", None))
    return rules and Guard(rules, THINKING, prompt)


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("fake_vllm")))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]  # for TRL, which would find it there


def engine_of(**options) -> VllmEngine:
    return VllmEngine(FOLDER, THINKING, replicas=1, **{"guard": keep_rules} | options)


def test_vllm_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'efficient-reasoning\[vllm\]'"):
        VllmEngine(FOLDER, THINKING)


def test_architectures_of_its_own(vllm):
    def config(name: str, **others):
        return SimpleNamespace(architectures=[name], **others)

    assert VllmEngine.can_decode(config("Qwen3ForCausalLM"))
    assert not VllmEngine.can_decode(config("LinearForCausalLM"))
    assert not VllmEngine.can_decode(config("Qwen3ForCausalLM", auto_map={"AutoModelForCausalLM": "modeling.Ours"}))


def test_samples_and_their_bill(vllm):
    engine = engine_of()
    assert engine.capabilities == {LOGPROBS, LOGIT_BIAS, SCORE, IN_LOOP}
    requests = [Request(PROMPT, 5, Sampling(), seed=3, n=2), Request(PROMPT, 4, GREEDY, n=2, logprobs=True)]
    first, second, *greedy = engine.generate(requests)
    singles = engine.generate([Request(PROMPT, 5, Sampling(), seed=seed) for seed in (3, 4)])
    assert [one.ids for one in (first, second)] == [one.ids for one in singles]
    assert (first.spend.computed_prompt_tokens, second.spend.computed_prompt_tokens) == (1, 0)
    assert first.spend.decoded_tokens == 5 and first.spend.prompt_tokens == 3 and first.spend.seconds > 0
    assert [one.logprobs for one in greedy] == [[-0.25] * 4] * 2 and first.logprobs is None
    with pytest.raises(BadInput, match="set temperature to 0 or 1"):
        engine.generate([dataclasses.replace(requests[0], logprobs=True)])


def test_close_in_the_loop_is_counted_as_forced(vllm):
    engine = engine_of()
    close = ForcedClose(4, THINKING)
    [one] = engine.generate([Request([*PROMPT, *THINKING.open([])], 12, GREEDY, forced_close=close, logprobs=True)])
    assert one.was_closed and one.ids[4:5] == THINKING.closing()
    assert (one.spend.forced_tokens, one.spend.decoded_tokens) == (1, len(one.ids) - 1)
    assert one.logprobs[4] == 0.0


def test_vllm_that_passes_over_the_rules_is_refused(vllm):
    engine = engine_of(guard=None)
    with pytest.raises(BadInput, match=r"vLLM 0.0 let a response break its budget \(its token 4 is"):
        engine.generate([Request([*PROMPT, *THINKING.open([])], 12, GREEDY, forced_close=ForcedClose(4, THINKING))])


def test_draft_work_is_on_the_ledger(vllm):
    engine = engine_of(speculative_config={"method": "ngram"})
    assert engine.capabilities == {LOGPROBS, SCORE}
    completions = engine.generate([Request(PROMPT, 5, GREEDY), Request(PROMPT, 4, GREEDY)])
    assert sum(one.spend.draft_tokens for one in completions) == 3 * 9
    [free] = engine.generate([Request(PROMPT, 5, GREEDY)])
    [one] = engine.generate([Request(PROMPT, 5, GREEDY, forbidden_first_ids=frozenset(free.ids[:1]))])
    assert one.ids[0] != free.ids[0] and len(one.ids) == 5 and one.spend.requests == 2


def test_scores(vllm):
    [score] = engine_of().score([(PROMPT, [30, 31])])
    assert score.logprobs == [-30.0, -31.0]
    assert (score.spend.prompt_tokens, score.spend.decoded_tokens) == (5, 1)


def test_replicas_drain_one_queue(vllm, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.inference.vllm_engine.SLICE", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    requests = [Request([*PROMPT, 20 + place], 3, GREEDY, logprobs=True) for place in range(12)]
    engine = VllmEngine(FOLDER, THINKING, replicas=2)
    completions = engine.generate(requests)
    alone = engine_of().generate(requests)
    assert [one.ids for one in completions] == [one.ids for one in alone]
    assert {one.logprobs[0] for one in completions} <= {-3.25, -5.25}  # each replica sees a GPU of its own
    with pytest.raises(BadInput, match=r"replica has died; .* the same command resumes"):
        VllmEngine("dies", THINKING, replicas=2).generate(requests)


# ---- vllm serve ----


def test_command_of_a_checkpoint():
    words = serve.command("overthinker", ["--port", "9"])
    assert words[:3] == ["vllm", "serve", FOLDER] and words[-2:] == ["--port", "9"]
    assert words[words.index("--logits-processors") + 1] == serve.PROCESSOR
    assert words[words.index("--reasoning-parser") + 1] == "deepseek_r1"
    sampling = json.loads(words[words.index("--override-generation-config") + 1])
    assert sampling == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


def test_command_lets_flags_stand_in_place_of_ours():
    words = serve.command("overthinker", ["--reasoning-parser=qwen3", "--speculative-config", "{}"])
    assert "--reasoning-parser" not in words and "--logits-processors" not in words


def test_latent_checkpoints_are_not_served(tiny_model, tmp_path):
    folder = tmp_path / "latent"
    folder.mkdir()
    ReasoningMetadata("coconut", "sft", latent_steps=4).save(folder)
    with pytest.raises(BadInput, match="latent steps, which vLLM cannot; use backend graph"):
        serve.command(str(folder), [])
    ReasoningMetadata("pause", "sft", pause_steps=4).save(folder)
    with pytest.raises(BadInput, match="reads pauses behind prompts, which a server would leave out; use backend"):
        serve.command(str(folder), [])
