"""How long the page takes to stand, with 10,000 samples behind it: first paint, the curve, the first page of samples.

python scripts/bench/app_paint.py [OUT.json]

It makes a run in a temporary folder, starts the page on it and loads that in headless Chromium with an empty cache,
LOADS times. Needs the extra `app`, `pip install playwright` and Debian's `chromium`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BUDGETS = (512, 1024, 2048, 4096, None)
PROBLEMS = 2_000  # times five points: 10,000 samples
LOADS = 5
WORDS = ["so", "the", "sum", "is", "what", "we", "want,", "wait,", "check", "again:", "seven", "and", "twelve."]


def write_run(folder: Path) -> None:
    """A finished run with texts and ids as long as a reasoning model's."""
    from efficient_reasoning.evaluation.summary import summarise
    from efficient_reasoning.files import read_jsonl, write_json, write_jsonl
    from efficient_reasoning.traces import FORMAT

    lot = random.Random(0)

    def sample(number: int, budget: int | None) -> dict:
        thinking_tokens = min(lot.randint(200, 4_000), budget or 4_000)
        thinking = " ".join(lot.choice(WORDS) for _ in range(thinking_tokens))
        return {
            "id": f"problem-{number}",
            "question": " ".join(lot.choice(WORDS) for _ in range(40)),
            "answer": "19",
            "task": "numeric",
            "completion": thinking,
            "thinking": thinking,
            "final_answer": "19",
            "completion_ids": [lot.randrange(150_000) for _ in range(thinking_tokens)],
            "correct": lot.random() < thinking_tokens / 4_000,
            "truncated": lot.random() < 0.1,
            "forced_close": False,
            "empty_answer": False,
            "floor_tokens": None,
            "first_correct_tokens": None,
            "settled_tokens": None,
            "loops": False,
            "thinking_tokens": thinking_tokens,
            "answer_tokens": 4,
            "total_tokens": thinking_tokens + 6,
            "strategy": "budget-forcing",
            "budget_tokens": budget,
            "seed": number,
            "spend": {
                "requests": 1,
                "prompt_tokens": 60,
                "decoded_tokens": thinking_tokens + 7,
                "forced_tokens": 0,
                "masked_tokens": 0,
                "flops": 1e12,
                "seconds": 1.0,
                "peak_memory_bytes": 0,
            },
        }

    samples = folder / "samples.jsonl"
    write_jsonl(samples, (sample(number, budget) for number in range(PROBLEMS) for budget in BUDGETS))
    config = {"model": "made up", "strategies": ["budget-forcing"], "budgets": list(BUDGETS), "format": FORMAT}
    write_json(folder / "summary.json", summarise(read_jsonl(samples), config))


def load(browser, address: str) -> dict[str, float]:
    """Seconds of one load with an empty cache; all but the last since navigation began."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(".curve .point:visible")
    curve_seconds = page.evaluate("performance.now()") / 1000
    page.get_by_role("tab", name="Samples").click()
    page.wait_for_selector("#sample .text")
    samples_seconds = page.evaluate("performance.now()") / 1000
    before = time.perf_counter()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("2 / 167").wait_for()
    next_page_seconds = time.perf_counter() - before
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    measured = {
        "first_contentful_paint_seconds": page.evaluate(paint) / 1000,
        "curve_seconds": curve_seconds,
        "samples_seconds": samples_seconds,
        "next_page_seconds": next_page_seconds,
    }
    page.context.close()
    return measured


def main() -> None:
    from playwright.sync_api import sync_playwright

    from efficient_reasoning.app.serve import start
    from efficient_reasoning.files import write_json

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        write_run(run)
        megabytes = (run / "samples.jsonl").stat().st_size / 1e6
        began = time.perf_counter()
        page = start([run], port=port)
        start_seconds = time.perf_counter() - began
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            loads = [load(browser, f"http://127.0.0.1:{port}/") for _ in range(LOADS)]
            version = browser.version
            browser.close()
        page.close(verbose=False)
    result = {
        "samples": PROBLEMS * len(BUDGETS),
        "megabytes": round(megabytes, 1),
        "start_seconds": round(start_seconds, 2),  # imports and the index
        "median": {name: round(median(one[name] for one in loads), 3) for name in loads[0]},
        "worst": {name: round(max(one[name] for one in loads), 3) for name in loads[0]},
        "loads": LOADS,
        "chromium": version,
        "cpu_count": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))
    if sys.argv[1:]:
        write_json(sys.argv[1], result)


if __name__ == "__main__":
    main()
