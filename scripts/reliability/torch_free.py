"""A pytest plugin for a Python without torch: whatever imports torch, or what is built on it, is skipped.

Tests that start such a program are named, so that one that should need no torch, and asks for it, fails.

    python -m pytest -p scripts.reliability.torch_free tests
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pytest

NEED_TORCH = {"accelerate", "datasets", "deepspeed", "gradio", "peft", "torch", "transformers", "trl"}
START_PROGRAMS = {
    "test_solve_from_the_command_line",
    "test_the_main_job_ends_with_table_picture_and_folder_and_runs_twice",
    "test_a_recipe_that_fails_fails_the_job",
}


class _Skip(MetaPathFinder):
    """pytest's skip is no Exception, so that nobody takes it for a package that is merely missing."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in NEED_TORCH:
            pytest.skip(f"needs {fullname}", allow_module_level=True)


sys.meta_path.insert(0, _Skip())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.originalname in START_PROGRAMS:
            item.add_marker(pytest.mark.skip("starts a program that needs torch"))
