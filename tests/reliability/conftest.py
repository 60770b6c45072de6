"""The command lines and rows of the recipes' tests."""

from tests.recipes.conftest import argv, data  # noqa: F401
