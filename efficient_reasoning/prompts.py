"""Prompts and completions: the one place that renders them.

1. A row holds message lists exactly when the tokenizer has a chat template, else strings. TRL takes both unchanged,
   and inference encodes both here, so that a model is asked in the words in which it was trained.
2. Some templates think unless told not to, others the reverse: `template_kwargs` says it either way. Training needs
   the same arguments (TRL's `chat_template_kwargs`: in the config for GRPO, a column of the rows for SFT).
3. A question within a conversation is the list of its messages. Without a chat template each is a line, roles aside.
4. Templates strip the thinking of earlier turns. A conversation becomes one row per assistant turn: each is learnt as
   it was generated, with its own thinking, behind a history as the template renders it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efficient_reasoning.errors import BadInput
from efficient_reasoning.thinking import ThinkingFormat

_NEWLINE = "\n"  # ends each line of a prompt without a chat template


def make_prompt(tokenizer, question: str | Sequence[dict], system: str | None = None) -> list[dict] | str:
    """A question, or a conversation that ends with one, as this tokenizer's rows hold it: messages, or lines."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return messages if tokenizer.chat_template else "".join(f"{message['content']}\n" for message in messages)


def conversation(problem: Mapping) -> list[dict] | str:
    """What a problem asks: its question, or behind `metadata.earlier_turns` the messages that end with it.

    Raises:
        BadInput: earlier turns that are no list of messages.
    """
    metadata = problem.get("metadata")
    turns = metadata.get("earlier_turns") if isinstance(metadata, Mapping) else None
    if not turns:
        return problem["question"]
    if not isinstance(turns, list) or not all(map(_is_message, turns)):
        raise BadInput(
            f"Problem {problem.get('id')!r}: metadata.earlier_turns is no list of messages; write each as "
            '{"role": "user", "content": "..."}, the model\'s own as "assistant".'
        )
    return [*turns, {"role": "user", "content": problem["question"]}]


def _is_message(turn: object) -> bool:
    return (
        isinstance(turn, Mapping)
        and turn.get("role") in ("system", "user", "assistant")
        and isinstance(turn.get("content"), str)
    )


def add_control(prompt: list[dict] | str, control: str) -> list[dict] | str:
    """The prompt with a text behind its question that asks for a kind of chain, such as "<|short|>"."""
    if isinstance(prompt, str):
        return f"{prompt.removesuffix(_NEWLINE)}{control}\n"
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + control}]


def make_completion(tokenizer, text: str) -> list[dict] | str:
    """A response as this tokenizer's rows hold it; `text` is the whole response (`ThinkingFormat.write`)."""
    return [{"role": "assistant", "content": text}] if tokenizer.chat_template else text


def encode_prompt(tokenizer, prompt: list[dict] | str, thinking: bool = True) -> list[int]:
    """The ids that a model continues, with the generation prompt, as TRL encodes them.

    `thinking=False` acts where the template knows a switch; elsewhere append `ThinkingFormat.close([], prompt_ids)`.

    Raises:
        BadInput: the template refuses the messages (a role that it does not know, turns that do not alternate).
    """
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=False, **template_kwargs(tokenizer, thinking)
        )
    except TemplateError as error:
        name = tokenizer.name_or_path or "this tokenizer"
        raise BadInput(f"{name}: its chat template refuses the messages ({error}); change their roles.") from None


def template_kwargs(tokenizer, thinking: bool = True) -> dict[str, bool]:
    """The arguments that switch thinking on or off in this chat template; empty where it has no switch."""
    knows_switch = tokenizer.chat_template and "enable_thinking" in tokenizer.get_chat_template()
    return {"enable_thinking": thinking} if knows_switch else {}


def keeps_thinking(tokenizer, thinking_format: ThinkingFormat) -> bool:
    """Whether a row, as TRL renders it for SFT, continues the prompt of inference and still holds its thinking.

    DeepSeek-R1's template strips the thinking of finished turns, so that SFT would silently train on answers alone;
    such a tokenizer needs `trl.chat_template_utils.get_training_chat_template` while it trains.
    """
    prompt = make_prompt(tokenizer, "question")
    completion = make_completion(tokenizer, thinking_format.write("probe", "answer"))
    if isinstance(prompt, str):
        return True
    options = {"tokenize": False, **template_kwargs(tokenizer)}
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **options)
    whole = tokenizer.apply_chat_template(prompt + completion, **options)
    return whole.startswith(before) and "probe" in whole[len(before) :]


def split_turns(tokenizer, messages: Sequence[dict]) -> list[dict]:
    """Cut a conversation into rows `{"prompt", "completion"}`, one for every assistant turn that answers something.

    Raises:
        BadInput: what is no message, no assistant turn that answers a user, or several of them and a tokenizer without
            a chat template.
    """
    if not isinstance(messages, (list, tuple)) or not all(map(is_turn, messages)):
        raise BadInput('messages: not a list of messages; write each as {"role": "user", "content": "..."}.')
    roles = [message["role"] for message in messages]
    turns = [i for i, role in enumerate(roles) if role == "assistant" and "user" in roles[:i]]
    if not turns:
        raise BadInput("messages: no assistant turn follows a user's; give at least one question with its response.")
    if tokenizer.chat_template:
        return [{"prompt": messages[:i], "completion": [messages[i]]} for i in turns]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        name = tokenizer.name_or_path or "this tokenizer"
        raise BadInput(f"{name}: several turns need a chat template; give it one, or rows of one question each.")
    *system, question, response = (message["content"] for message in messages)
    return [{"prompt": make_prompt(tokenizer, question, *system), "completion": make_completion(tokenizer, response)}]


def is_turn(message: object) -> bool:
    """Whether a template can render it; a call of tools may come without content."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    return isinstance(message.get("content"), str) or bool(message.get("tool_calls"))
