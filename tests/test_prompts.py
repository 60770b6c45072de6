"""Rendering: rows and prompts agree with what TRL makes of them, for templates that treat thinking differently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from efficient_reasoning.errors import BadInput
from efficient_reasoning.prompts import (
    conversation,
    encode_prompt,
    keeps_thinking,
    make_completion,
    make_prompt,
    split_turns,
    template_kwargs,
)
from efficient_reasoning.thinking import ThinkingFormat

# The think-related parts of real templates.
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% endif %}"
    "{% if m.role == 'system' %}{{ m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}<|assistant|>{{ m.content.split('</think>')[-1] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
R1_TRAINING = R1.replace(".split('</think>')[-1]", "")
R1_EARLY = R1.replace("<|assistant|><think>\n{% endif %}", "<|assistant|>{% endif %}")  # strips, but does not open
QWEN3 = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
QWEN35 = QWEN3.replace(
    "<think>\n\n</think>\n\n{% endif %}", "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
)  # thinks unless told not to
QWEN35_SMALL = QWEN35.replace(  # thinks only when told to
    "{% if enable_thinking is defined and enable_thinking is false %}", "{% if not enable_thinking %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + R1


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    added = ("<think>", "</think>", "<|user|>", "<|assistant|>", "<|system|>")
    tokenizer.add_tokens([AddedToken(text, special=False) for text in added])
    tokenizer.chat_template = template
    return tokenizer


def rendered(template: str | None, thinking: bool = True, question: str = "2+2?", system: str | None = None) -> str:
    tokenizer = tokenizer_with(template)
    return tokenizer.decode(encode_prompt(tokenizer, make_prompt(tokenizer, question, system), thinking))


def test_rows_are_messages_exactly_when_there_is_a_template():
    chat, plain = tokenizer_with(QWEN3), tokenizer_with(None)
    question = {"role": "user", "content": "2+2?"}
    assert make_prompt(chat, "2+2?") == [question]
    assert make_prompt(chat, "2+2?", "Be brief.") == [{"role": "system", "content": "Be brief."}, question]
    assert make_completion(chat, "4") == [{"role": "assistant", "content": "4"}]
    assert make_prompt(plain, "2+2?") == "2+2?\n"
    assert make_prompt(plain, "2+2?", "Be brief.") == "Be brief.\n2+2?\n"
    assert make_completion(plain, "4") == "4"


def test_prompts_as_the_model_sees_them():
    assert rendered(None) == "2+2?\n"
    assert rendered(R1, system="Be brief.") == "Be brief.<|user|>2+2?<|assistant|><think>\n"
    assert rendered(QWEN3) == "<|user|>2+2?<eos><|assistant|>"
    assert rendered(QWEN3, thinking=False).endswith("<|assistant|><think>\n\n</think>\n\n")


@pytest.mark.parametrize(("template", "opens"), [(R1, True), (QWEN3, False), (QWEN35, True), (QWEN35_SMALL, True)])
def test_thinking_is_switched_and_recognised(template, opens):
    tokenizer = tokenizer_with(template)
    thinking_format = ThinkingFormat.from_tokenizer(tokenizer)
    prompt = make_prompt(tokenizer, "What does <think> mean?")
    assert thinking_format.prompt_opens(encode_prompt(tokenizer, prompt)) is opens
    # Whatever the template knows, `close` brings the prompt to the same end.
    prompt_ids = encode_prompt(tokenizer, prompt, thinking=False)
    forced = tokenizer.decode(prompt_ids + thinking_format.close([], prompt_ids))
    assert forced.endswith("<|assistant|><think>\n\n</think>\n\n")


def test_template_kwargs_name_only_what_the_template_knows():
    assert template_kwargs(tokenizer_with(QWEN3), False) == {"enable_thinking": False}
    assert template_kwargs(tokenizer_with(QWEN35)) == {"enable_thinking": True}
    assert template_kwargs(tokenizer_with(R1)) == template_kwargs(tokenizer_with(None)) == {}


@pytest.mark.parametrize("template", [None, R1, R1_EARLY, R1_TRAINING, QWEN3, QWEN35, QWEN35_SMALL])
def test_keeps_thinking_foretells_what_sft_trains_on(template):
    from trl.data_utils import apply_chat_template  # takes seconds

    tokenizer = tokenizer_with(template)
    thinking_format = ThinkingFormat.from_tokenizer(tokenizer)
    row = {
        "prompt": make_prompt(tokenizer, "2+2?"),
        "completion": make_completion(tokenizer, thinking_format.write("two and two", "4")),
    }
    if template is not None:
        row = apply_chat_template(row, tokenizer, **template_kwargs(tokenizer))
    assert keeps_thinking(tokenizer, thinking_format) == ("two and two" in row["completion"])
    assert keeps_thinking(tokenizer, thinking_format) == (template not in (R1, R1_EARLY))


def test_a_finished_turn_must_continue_the_prompt_that_opened_its_block():
    renamed = R1_TRAINING.replace("{{ m.content }}<eos>", "{{ m.content.replace('<think>', '[think]') }}<eos>")
    tokenizer = tokenizer_with(renamed)
    assert not keeps_thinking(tokenizer, ThinkingFormat.from_tokenizer(tokenizer))


def test_a_refused_role_is_reported_with_the_templates_own_words():
    assert rendered(STRICT).endswith("<think>\n")
    with pytest.raises(BadInput, match="System role not supported"):
        rendered(STRICT, system="Be brief.")


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\nfirst thought\n</think>\n\n2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nsecond thought\n</think>\n\n4"},
]


TURNS = [{"role": "user", "content": "Take 3."}, {"role": "assistant", "content": "I have 3."}]


def test_a_question_stands_behind_the_turns_before_it():
    problem = {"id": "a", "question": "Add 4.", "metadata": {"earlier_turns": TURNS}}
    chat, plain = tokenizer_with(QWEN3), tokenizer_with(None)
    asked = conversation(problem)
    assert make_prompt(chat, asked) == [*TURNS, {"role": "user", "content": "Add 4."}]
    assert (
        rendered(QWEN3, question=asked)
        == "<|user|>Take 3.<eos><|assistant|>I have 3.<eos><|user|>Add 4.<eos><|assistant|>"
    )
    assert make_prompt(plain, asked) == "Take 3.\nI have 3.\nAdd 4.\n"
    assert make_prompt(plain, asked, "Be brief.").startswith("Be brief.\nTake 3.\n")
    assert asked == conversation(problem), "the problem stays as it is"


@pytest.mark.parametrize("metadata", [{}, None, "a note", {"earlier_turns": []}, {"family": "sums"}])
def test_a_question_without_turns_is_a_text(metadata):
    assert conversation({"id": "a", "question": "Add 4.", "metadata": metadata}) == "Add 4."


@pytest.mark.parametrize(
    "turns",
    ["Take 3.", ["Take 3."], [{"role": "user"}], [{"role": "me", "content": "?"}], [TURNS[0], {"content": 3}], 3],
)
def test_turns_that_are_no_messages_are_named(turns):
    with pytest.raises(BadInput, match=r"Problem 'a': metadata.earlier_turns is no list of messages; write each as"):
        conversation({"id": "a", "question": "Add 4.", "metadata": {"earlier_turns": turns}})


def test_every_turn_keeps_its_own_thinking_and_loses_it_as_history():
    tokenizer = tokenizer_with(QWEN3)
    whole = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert "first thought" not in whole  # why one row per conversation would not do
    first, second = split_turns(tokenizer, CONVERSATION)
    assert first == {"prompt": CONVERSATION[:2], "completion": [CONVERSATION[2]]}
    assert second == {"prompt": CONVERSATION[:4], "completion": [CONVERSATION[4]]}
    for row, thought in ((first, "first thought"), (second, "second thought")):
        prompt = tokenizer.decode(encode_prompt(tokenizer, row["prompt"]))
        both = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        assert both.startswith(prompt) and thought in both[len(prompt) :] and "thought" not in prompt


def test_turns_after_tools_and_greetings():
    tokenizer = tokenizer_with(QWEN3)
    greeting, question, call, result, answer = messages = [
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "Rain."},
    ]
    assert split_turns(tokenizer, messages) == [
        {"prompt": [greeting, question], "completion": [call]},
        {"prompt": [greeting, question, call, result], "completion": [answer]},
    ]


def test_conversations_without_a_template_have_one_turn():
    tokenizer = tokenizer_with(None)
    completion = CONVERSATION[2]["content"]
    assert split_turns(tokenizer, CONVERSATION[:3]) == [{"prompt": "Be brief.\n1+1?\n", "completion": completion}]
    assert split_turns(tokenizer, CONVERSATION[1:3]) == [{"prompt": "1+1?\n", "completion": completion}]
    with pytest.raises(BadInput, match="several turns need a chat template"):
        split_turns(tokenizer, CONVERSATION)
    with pytest.raises(BadInput, match="no assistant turn follows"):
        split_turns(tokenizer, CONVERSATION[:2])


def test_with_qwen3s_tokenizer():
    found = sorted(Path(os.environ.get("QWEN3_TOKENIZER") or "/nonexistent").rglob("tokenizer.json"))
    if not found:
        pytest.skip("QWEN3_TOKENIZER does not name a folder with Qwen3's tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(found[0].parent)
    thinking_format = ThinkingFormat.from_tokenizer(tokenizer)
    assert keeps_thinking(tokenizer, thinking_format)
    first, second = split_turns(tokenizer, CONVERSATION)
    prompt_ids = encode_prompt(tokenizer, second["prompt"])
    prompt = tokenizer.decode(prompt_ids)
    assert prompt.endswith("<|im_start|>assistant\n") and "thought" not in prompt
    both = tokenizer.apply_chat_template(second["prompt"] + second["completion"], return_dict=False)
    assert both[: len(prompt_ids)] == prompt_ids
    split = thinking_format.split(both[len(prompt_ids) :], prompt_ids)
    assert tokenizer.decode(split.thinking_ids) == "second thought" and tokenizer.decode(split.answer_ids) == "4"
    assert len(encode_prompt(tokenizer, first["prompt"])) < len(prompt_ids)
