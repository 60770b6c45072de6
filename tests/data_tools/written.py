"""Traces for the tests of the data tools."""

from __future__ import annotations

from efficient_reasoning.thinking import ThinkingFormat


def counted(problem: str, seed: int, total_tokens: int, **changes) -> dict:
    """A trace of which only the lengths and the verdict matter."""
    return {
        "id": problem,
        "task": "numeric",
        "answer": "2",
        "prompt": f"{problem}?\n",
        "completion": f"<think>{seed}</think>2",
        "prompt_ids": [1],
        "completion_ids": [2, 3],
        "thinking": str(seed),
        "final_answer": "2",
        "correct": True,
        "truncated": False,
        "thinking_tokens": total_tokens - 3,
        "total_tokens": total_tokens,
        "seed": seed,
    } | changes


def written(
    thinking: ThinkingFormat, problem: str, question: str, chain: str, answer: str, seed: int = 0, /, **changes
) -> dict:
    """A correct trace of this chain, in the ids of its tokenizer."""
    encode = thinking.tokenizer.encode
    ids = encode(thinking.write(chain, answer), add_special_tokens=False)
    return {
        "id": problem,
        "question": question,
        "task": "numeric",
        "answer": answer,
        "prompt": f"{question}\n",
        "completion": thinking.write(chain, answer),
        "prompt_ids": encode(f"{question}\n"),
        "completion_ids": [*ids, *thinking.eos_ids],
        "thinking": chain,
        "final_answer": answer,
        "correct": True,
        "truncated": False,
        "thinking_tokens": len(encode(chain, add_special_tokens=False)),
        "total_tokens": len(ids),
        "seed": seed,
    } | changes
