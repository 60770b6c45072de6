"""An hour of GRPO on the embedded model: do memory, open files and processes stay what they were?

    python scripts/reliability/soak.py --out runs/soak [--minutes 60] [--seed 0]

1. The run is that of `kill.py`: sampled responses that serve four steps, a reward that remembers. It saves every 48
   steps, keeps two checkpoints, and is interrupted when the time is over.
2. Every ten seconds it is looked at from outside, all its processes together: resident memory, open files, processes.
3. Flat is: the median of the last quarter of the time lies at most 5 % over that of the second quarter. The first
   loads, compiles and fills caches.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil

from efficient_reasoning.files import write_json
from scripts.reliability import kill

SETTINGS = {"max_steps": 10**6, "save_steps": 48, "save_total_limit": 2, "lr_scheduler_type": "constant"}
LEARNING_RATE = 1e-6  # responses stay as long as they are, and so does what they take
TOLERANCE = 0.05
SECONDS_BETWEEN = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kill.write_rows(arguments.out)
    settings = SETTINGS | {"learning_rate": LEARNING_RATE, "seed": arguments.seed}
    kill.RECIPES["rl_length"] = kill.RECIPES["rl_length"] | settings
    output = arguments.out / "run"
    process = kill.start("rl_length", arguments.out, output, stdout=subprocess.DEVNULL)
    looks = watch(process, arguments.minutes * 60)
    write_json(arguments.out / "looks.json", looks)
    if process.poll() is not None:
        sys.exit(f"the run ended by itself, see {output.with_suffix('.log')}")
    process.send_signal(signal.SIGINT)
    process.wait()
    steps = max((int(path.name.rpartition("-")[2]) for path in output.glob("checkpoint-*")), default=0)
    print(f"{steps} steps and more, {len(looks)} looks\n\n| | second quarter | last quarter | last / second |")
    print("| --- | ---: | ---: | ---: |")
    rows = summary(looks)
    for name, (earlier, later) in rows.items():
        print(f"| {name} | {earlier:,.0f} | {later:,.0f} | {later / earlier:.3f} |")
    sys.exit(not all(is_flat(*row) for row in rows.values()))


def watch(process: subprocess.Popen, seconds: float) -> list[dict[str, float]]:
    """Looks at a process and all under it, until the time is over or it ends; every sixth is printed."""
    looks, begin = [], time.monotonic()
    while (passed := time.monotonic() - begin) < seconds and process.poll() is None:
        if (look := look_at(process.pid)) is not None:
            looks.append({"seconds": passed, **look})
            if len(looks) % 6 == 1:
                print(", ".join(f"{name} {value:,.0f}" for name, value in looks[-1].items()), flush=True)
        time.sleep(min(SECONDS_BETWEEN, max(0.0, seconds - passed)))
    return looks


def look_at(pid: int) -> dict[str, float] | None:
    """MiB, open files and processes of a process and all under it; None where one of them ends meanwhile."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return {
            "memory in MiB": sum(each.memory_info().rss for each in tree) / 2**20,
            "open files": sum(each.num_fds() for each in tree),
            "processes": len(tree),
        }
    except psutil.Error:
        return None


def summary(looks: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Medians of the second and of the last quarter of the looks."""
    quarter = len(looks) // 4
    if quarter == 0:
        sys.exit("too few looks; give more --minutes.")
    parts = looks[quarter : 2 * quarter], looks[-quarter:]
    names = [name for name in looks[0] if name != "seconds"]
    return {name: tuple(statistics.median(look[name] for look in part) for part in parts) for name in names}


def is_flat(earlier: float, later: float) -> bool:
    return later <= earlier * (1 + TOLERANCE)


if __name__ == "__main__":
    main()
