"""A pytest plugin for a Python without torch: whatever imports torch, or what is built on it, is skipped.

Also what a process of a test's own was stopped by.

python -m pytest -p scripts.reliability.torch_free tests
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pytest

NEED_TORCH = {"accelerate", "datasets", "deepspeed", "gradio", "peft", "torch", "transformers", "trl"}


class _Skip(MetaPathFinder):
    """pytest's skip is no Exception, so that nobody takes it for a package that is merely missing."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in NEED_TORCH:
            pytest.skip(f"needs {fullname}", allow_module_level=True)


sys.meta_path.insert(0, _Skip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    said = str(call.excinfo.value) if report.failed else ""
    if "torchrun: not found" in said or any(f"No module named '{name}'" in said for name in NEED_TORCH):
        report.outcome, report.longrepr = "skipped", (str(item.path), None, "Skipped: a process of it needs torch")
    return report
