"""What every engine with a model understands, on each of them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Ledger, Request, Sampling
from efficient_reasoning.inference.engine import ForcedClose, stop_place
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.reasoner import torch_engine
from efficient_reasoning.inference.transformers_engine import TransformersEngine
from efficient_reasoning.inference.two_pass import TwoPassEngine
from efficient_reasoning.thinking import ThinkingFormat
from tests.inference.test_engine import EOS, GREEDY, PAD, VOCABULARY, generated, prompts, tiny

TOKENIZER = load_tokenizer(resolve_model("overthinker"))
WHOLE = Sampling(1.3, 1.0, 0)


def qwen3(**settings):
    return tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2, **settings)


@pytest.fixture(params=[GraphEngine, TransformersEngine], ids=["graph", "transformers"])
def engine(request):
    return request.param(qwen3(), frozenset(EOS), PAD, TOKENIZER)


def logits_behind(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].float()


def test_several_samples_are_those_of_the_next_seeds(engine):
    [row, other] = prompts(2, shortest=4)
    completions = engine.generate([Request(row, 9, WHOLE, seed=5, n=3), Request(other, 9, WHOLE, seed=1)])
    alone = [engine.generate([Request(row, 9, WHOLE, seed=seed)])[0].ids for seed in (5, 6, 7)]
    assert [completion.ids for completion in completions[:3]] == alone
    assert len(completions) == 4


def test_who_continues_a_response_draws_what_one_request_would_have_drawn(engine):
    requests = [Request(row, 12, WHOLE, seed) for seed, row in enumerate(prompts(8, shortest=3))]
    for request, whole in zip(requests, engine.generate(requests), strict=True):
        first, rest = whole.ids[:5], whole.ids[5:]
        if rest:
            more = Request([*request.prompt_ids, *first], 7, WHOLE, request.seed, offset=5)
            assert engine.generate([more])[0].ids == rest


def test_stop_ids_end_a_completion_and_stay_in_it(engine):
    rows = prompts(12)
    plain = engine.generate([Request(row, 30, GREEDY) for row in rows])
    stops = frozenset({plain[0].ids[1], plain[3].ids[2]})
    assert not stops & set(EOS)
    stopped = engine.generate([Request(row, 30, GREEDY, stop_ids=stops) for row in rows])
    for one, other in zip(plain, stopped, strict=True):
        end = next((i + 1 for i, token in enumerate(one.ids) if token in stops), None)
        assert other.ids == one.ids[:end]
        assert other.stopped == (end is not None)
        assert other.finished == (other.ids[-1] in EOS)
        assert other.spend.decoded_tokens == len(other.ids)
    assert {one.stopped for one in stopped} == {True, False}
    # Requests with and without share a batch.
    mixed = engine.generate([Request(rows[0], 30, GREEDY, stop_ids=stops), Request(rows[0], 30, GREEDY)])
    assert [one.ids for one in mixed] == [stopped[0].ids, plain[0].ids]


def test_stop_strings_end_a_completion_with_the_token_that_completes_them(engine):
    rows = prompts(12)
    plain = engine.generate([Request(row, 30, GREEDY) for row in rows])
    text = TOKENIZER.decode(plain[0].ids[4:7])
    string = text[len(text) // 2 :]
    assert string
    stopped = engine.generate([Request(row, 30, GREEDY, stop_strings=(string,)) for row in rows])
    for one, other in zip(plain, stopped, strict=True):
        end = stop_place(TOKENIZER, one.ids, (string,))
        assert other.ids == one.ids[:end]
        assert other.stopped == (end is not None and not other.finished)
    assert stopped[0].stopped
    assert string not in TOKENIZER.decode(stopped[0].ids[:-1])
    again = engine.generate([Request(row, 30, GREEDY) for row in rows])
    assert [one.ids for one in again] == [one.ids for one in plain]


@pytest.mark.parametrize("sampling", [GREEDY, WHOLE, Sampling(0.7, 0.9, 5)], ids=str)
def test_logprobs_are_those_of_the_model_with_nothing_cut_off(engine, sampling):
    rows = prompts(5, shortest=3)
    requests = [Request(row, 8, sampling, seed, logprobs=seed > 0) for seed, row in enumerate(rows)]
    first, *others = engine.generate(requests)
    assert first.logprobs is None
    for request, completion in zip(requests[1:], others, strict=True):
        logits = logits_behind(engine.model, [*request.prompt_ids, *completion.ids])
        begin = len(request.prompt_ids) - 1
        expected = (logits[begin:-1] / (sampling.temperature or 1.0)).log_softmax(-1)
        expected = expected.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_biases_forbid_and_force(engine):
    rows = prompts(6)
    plain = engine.generate([Request(row, 6, GREEDY) for row in rows])
    favourite = 11
    forced = engine.generate([Request(row, 6, GREEDY, logit_bias={favourite: 1e4}) for row in rows])
    assert all(one.ids == [favourite] * 6 for one in forced)
    hated = plain[0].ids[0]
    without = engine.generate(
        [Request(row, 6, GREEDY, logit_bias={hated: -1e4} if i == 0 else {}) for i, row in enumerate(rows)]
    )
    assert hated not in without[0].ids
    assert [one.ids for one in without[1:]] == [one.ids for one in plain[1:]]


def test_forbidden_first_tokens_are_not_drawn_and_counted_where_they_were_best(engine):
    rows = prompts(6)
    plain = engine.generate([Request(row, 4, GREEDY) for row in rows])
    best = frozenset({plain[0].ids[0]})
    others = engine.generate([Request(row, 4, GREEDY, forbidden_first_ids=best) for row in rows])
    for one, other in zip(plain, others, strict=True):
        was_best = one.ids[0] in best
        assert other.spend.masked_tokens == was_best
        assert (other.ids == one.ids) != was_best
    assert others[0].ids[0] not in best


def test_scores_are_the_models_log_probabilities(engine):
    rows = prompts(9, shortest=6)
    pairs = [(row[: 1 + i % 4], row[1 + i % 4 :]) for i, row in enumerate(rows)]
    for (prefix, ids), score in zip(pairs, engine.score(pairs), strict=True):
        logprobs = logits_behind(engine.model, [*prefix, *ids]).log_softmax(-1)[len(prefix) - 1 : -1]
        expected = logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(score.logprobs), expected, atol=1e-4, rtol=1e-4)
        assert score.spend.computed_prompt_tokens == len(prefix) + len(ids)
    assert engine.score([]) == []


def test_an_engine_has_counted_what_it_charged(engine):
    requests = [Request(row, 9, WHOLE, seed, n=1 + seed % 3) for seed, row in enumerate(prompts(8))]
    charged = [one.spend for one in engine.generate(requests)]
    charged += [one.spend for one in engine.score([([5, 6], [7])])]
    total = sum(charged, Ledger())
    assert engine.spent.as_dict() == pytest.approx(total.as_dict())
    assert total.requests == 8 + 8 - 1 + 1
    assert total.peak_memory_bytes == max(spend.peak_memory_bytes for spend in charged) > 0


def test_decoded_tokens_are_executed_steps(monkeypatch):
    """Alone in its batch, a request makes the model step as often as it is charged, the first token apart."""
    engine = GraphEngine(qwen3(), frozenset(EOS), PAD)
    assert engine.cache_bytes  # is measured by a step
    steps, forward = [], engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **inputs: steps.append(inputs["input_ids"].shape) or forward(**inputs)
    )
    for row in prompts(4, shortest=3):
        steps.clear()
        [completion] = engine.generate([Request(row, 20, GREEDY)])
        assert sum(rows * columns for rows, columns in steps) == len(row) + completion.spend.decoded_tokens - 1


@pytest.mark.parametrize("config", ["qwen3", "llama"])
def test_flops_are_within_a_twentieth_of_what_torch_counts(config):
    classes = (Qwen3Config, Qwen3ForCausalLM) if config == "qwen3" else (LlamaConfig, LlamaForCausalLM)
    model = tiny(*classes, key_value_heads=2)
    model.set_attn_implementation("eager")  # torch counts nothing inside the fused kernel of a CPU
    flops = DecodingFlops.of(model)
    row, new_tokens = prompts(1, longest=40, shortest=40)[0], 60
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.generate(torch.tensor([row]), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
    ours = flops.of_prompt(len(row), len(row)) + flops.of_new(len(row), new_tokens)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)
    # Reading many tokens at once, torch counts the half of the scores that the mask throws away.
    masked = (len(row) ** 2 - len(row)) / 2 * flops.attention
    assert ours + masked == pytest.approx(counter.get_total_flops(), rel=0.001)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.tensor([row]), logits_to_keep=10)
    assert flops.of_score(30, 10) + masked == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("sampling", [GREEDY, WHOLE], ids=["greedy", "sampled"])
def test_a_draft_model_changes_the_work_and_not_the_tokens(sampling):
    model, draft = qwen3(), qwen3()
    for parameter in draft.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    ends = (frozenset(EOS), PAD, TOKENIZER)
    requests = [Request(row, 20, sampling, seed, logprobs=True) for seed, row in enumerate(prompts(4, shortest=3))]
    plain = TransformersEngine(model, *ends).generate(requests)
    drafted = TransformersEngine(model, *ends, draft=draft).generate(requests)
    assert [one.ids for one in drafted] == [one.ids for one in plain]
    for one, other in zip(drafted, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.spend.draft_tokens > 0
        assert one.spend.flops > other.spend.flops
        assert one.spend.decoded_tokens == len(one.ids)


def test_greedy_completions_are_those_of_generate(engine):
    rows = prompts(6)
    completions = engine.generate([Request(row, 25, GREEDY) for row in rows])
    assert [one.ids for one in completions] == generated(qwen3(), rows, 25)
    assert max(map(max, (one.ids for one in completions))) < VOCABULARY


def test_settings_of_a_models_own_do_not_reach_requests():
    model = qwen3()
    rows = prompts(4)
    expected = [
        one.ids
        for one in TransformersEngine(model, frozenset(EOS), PAD).generate([Request(row, 25, GREEDY) for row in rows])
    ]
    model.generation_config.repetition_penalty = 1.9
    engine = TransformersEngine(model, frozenset(EOS), PAD)
    assert [one.ids for one in engine.generate([Request(row, 25, GREEDY) for row in rows])] == expected
    assert model.generation_config.repetition_penalty == 1.9  # a checkpoint keeps it


def test_an_architecture_that_keeps_slots_from_its_attention_is_left_to_generate():
    from transformers import NemotronConfig, NemotronForCausalLM

    model = tiny(NemotronConfig, NemotronForCausalLM, key_value_heads=2)
    before = model.config._attn_implementation
    with pytest.raises(BadInput, match="graph cannot decode nemotron; use transformers"):
        GraphEngine(model, frozenset(EOS), PAD)
    assert model.config._attn_implementation == before
    name, engine = torch_engine(model, frozenset(EOS), PAD)
    assert (name, type(engine)) == ("transformers", TransformersEngine)
    assert torch_engine(qwen3(), frozenset(EOS), PAD)[0] == "graph"


def test_a_stop_id_ends_what_was_drawn_and_not_what_is_forced():
    thinking = ThinkingFormat.from_tokenizer(TOKENIZER)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve_model("overthinker"))).eval()
    close = ForcedClose(6, thinking)
    requests = [
        Request([40 + i, *thinking.open_ids], 20, GREEDY, stop_ids=frozenset(thinking.close_ids), forced_close=close)
        for i in range(8)
    ]
    ends = (thinking.eos_ids, PAD, TOKENIZER)
    ours = GraphEngine(model, *ends).generate(requests)
    theirs = TwoPassEngine(TransformersEngine(model, *ends)).generate(requests)
    assert [one.ids for one in ours] == [one.ids for one in theirs]
    assert [one.stopped for one in ours] == [one.stopped for one in theirs]
    assert any(one.was_closed and len(one.ids) > 8 for one in ours)


DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
DELTA |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("bamba", {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "attn_layer_indices": [1]}),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"], "num_experts": 0} | DELTA),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}),
        ("mistral", {"sliding_window": 12}),
    ],
)
def test_flops_of_attention_are_those_of_the_layers_that_attend(kind, own):
    """Behind 10 tokens more, torch counts what is looked at more, whatever states cost."""
    settings = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **settings | own)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    flops, counted = DecodingFlops.of(model), []
    for context in (20, 30):
        ids = torch.randint(2, 50, (1, context + 1))
        with torch.no_grad():
            cache = model(ids[:, :-1], use_cache=True).past_key_values
            with FlopCounterMode(display=False) as counter:
                model(ids[:, -1:], past_key_values=cache)
        counted.append(counter.get_total_flops())
    assert flops.of_token(31) - flops.of_token(21) == counted[1] - counted[0]
    assert flops.window_tokens == own.get("sliding_window", 0)
    # Of states, torch counts no more than what is a product of matrices.
    assert flops.of_token(21) == pytest.approx(counted[0], rel=0.35)


def test_flops_of_a_model_that_only_keeps_states():
    config = AutoConfig.for_model(
        "mamba2",
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=16,
        state_size=8,
        n_groups=1,
    )
    flops = DecodingFlops.of(AutoModelForCausalLM.from_config(config))
    assert flops.of_token(1) == flops.of_token(1000) > 2 * 4 * 4 * 16 * 8
