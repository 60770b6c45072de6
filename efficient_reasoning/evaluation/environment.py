"""What a number was made with: versions, commit and hardware, as they stand in a run's environment.json.

It names no host, user or folder, because it may be published with the run.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from efficient_reasoning import __version__

_PACKAGES = ("torch", "transformers", "trl", "peft", "deepspeed", "datasets", "numpy", "vllm")


def environment() -> dict:
    """Versions, commit, platform, processor and GPUs of this process."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "efficient_reasoning": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "gpus": gpus,
        # By what is installed: a folder of such a name may lie in the working directory.
        "packages": {name: one.version for name in _PACKAGES for one in metadata.distributions(name=name)},
    }


def _commit() -> str | None:
    """Commit of the toolkit's own tree, marked -dirty when it was changed; None when it is installed without git."""
    if shutil.which("git") is None:
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
