"""Texts of models, files and people as HTML: shown letter by letter, never read as markup."""

from __future__ import annotations

import html
from collections.abc import Mapping

from efficient_reasoning.app.stream import Growing
from efficient_reasoning.inference import Solution
from efficient_reasoning.traces import budget_label

# gradio's HTML component is a template, in which these could begin an expression.
_TEMPLATE = str.maketrans({letter: f"&#{ord(letter)};" for letter in "${}@`\\"})


def escape(text: object) -> str:
    """HTML that shows this text, also in an attribute."""
    return html.escape(str(text)).translate(_TEMPLATE)


def show_sample(sample: Mapping) -> str:
    """One line of samples.jsonl: question, verdict, what the model wrote, what it cost. Lengths in tokens."""
    spend = sample["spend"]
    verdict = "correct" if sample["correct"] else "wrong"
    marks = [f'<span class="mark {verdict}">{verdict}</span>']
    marks += ['<span class="mark">cut off</span>'] if sample["truncated"] else []
    marks += ['<span class="mark">thinking closed by force</span>'] if sample.get("forced_close") else []
    spent_tokens = spend.get("decoded_tokens", 0) + spend.get("forced_tokens", 0)
    facts = {
        "point": f"{sample['strategy']}, {budget_label(sample.get('budget_tokens'))}",
        "response": _length(sample["total_tokens"], sample.get("latent_tokens", 0)),
        "spent": f"{spent_tokens:,} tokens: {spend.get('decoded_tokens', 0):,} decoded, "
        f"{spend.get('forced_tokens', 0):,} forced",
        "prompt": f"{spend.get('prompt_tokens', 0):,} tokens",
        "requests": f"{spend.get('requests', 0):,}",
        "seconds": f"{spend.get('seconds', 0):.2f}",
        "seed": sample.get("seed", ""),
        "problem": sample.get("id", ""),
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    gold = sample.get("answer")
    return (
        f'<article class="sample"><div class="marks">{"".join(marks)}</div>'
        f"{_part('Question', sample['question'])}"
        f"{_part('Gold answer', 'none' if gold is None else gold)}"
        f"{_thinking(str(sample.get('thinking') or ''), sample['thinking_tokens'], is_open=False)}"
        f"{_part('Answer', sample.get('final_answer', ''), sample['answer_tokens'])}"
        f'<dl class="facts">{rows}</dl></article>'
    )


def show_response(name: str, state: Growing | Solution | str | None) -> str:
    """One model's side: its response while it grows, the solution, a refusal in words, or nothing yet."""
    title = f"<h3>{escape(name)}</h3>"
    if state is None:
        return f'<article class="sample side">{title}<p class="quiet">Its answer will stand here.</p></article>'
    if isinstance(state, str):
        return f'<article class="sample side">{title}<p class="refusal">{escape(state)}</p></article>'
    done = isinstance(state, Solution)
    thinks, nothing = not done and state.is_thinking, "empty" if done else "…"
    count = _length(state.total_tokens, state.latent_tokens)
    if done:
        count += ", cut off" if state.truncated else ""
        count += ", thinking closed by force" if state.forced_close else ""
        count += f"; {state.spend.tokens:,} spent"
    return (
        f'<article class="sample side {"done" if done else "growing"}">{title}'
        f"{_thinking(state.thinking, state.thinking_tokens, is_open=thinks)}"
        f"{_part('Answer', state.answer, state.answer_tokens, nothing)}"
        f'<p class="count">{count}</p></article>'
    )


def _length(total_tokens: int, latent_tokens: int) -> str:
    """Of a response, in words; its latents are in the count."""
    return f"{total_tokens + latent_tokens:,} tokens" + (
        f", {latent_tokens:,} of them latent" if latent_tokens else ""
    )


def _part(title: str, text: object, tokens: int | None = None, nothing: str = "empty") -> str:
    count = "" if tokens is None else f' <span class="count">{tokens:,} tokens</span>'
    shown = escape(str(text).strip()) or f'<span class="quiet">{nothing}</span>'
    return f'<section><h4>{title}{count}</h4><div class="text">{shown}</div></section>'


def _thinking(text: str, tokens: int, is_open: bool) -> str:
    shown = escape(text.strip()) or '<span class="quiet">empty</span>'
    return (
        f'<details{" open" if is_open else ""}><summary>Thinking <span class="count">{tokens:,} tokens</span>'
        f'</summary><div class="text">{shown}</div></details>'
    )
