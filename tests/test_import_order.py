"""Imports go one way: each room imports only from itself and from the rooms before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import efficient_reasoning

ROOT = Path(__file__).parents[1]
ORDER = [
    "errors", "files", "server", "config", "thinking", "prompts", "answers", "problems", "overthinking", "recorded",
    "few_shot", "heads", "redirect", "linear", "recurrent", "window_global", "checkpoint", "contamination",
    "latent", "inference", "scribes", "traces",
    "rewards", "evaluation", "audit", "compression", "cards", "hub", "merging",
    "rl", "scratch", "training", "app", "data_tools", "recipes",
]  # fmt: skip
LIGHT = (
    "errors", "files", "server", "config", "cli", "thinking", "prompts", "answers", "problems", "overthinking",
    "recorded", "few_shot", "compression",
)  # fmt: skip
HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "deepspeed"}

# The front door may name every room, and the package itself only passes names on.
LIBRARY = [
    path
    for folder in ("efficient_reasoning", "data_tools", "recipes")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in (ROOT / "efficient_reasoning/cli.py", ROOT / "efficient_reasoning/__init__.py")
]


def module_of(path: Path) -> list[str]:
    """`efficient_reasoning/rl/ppo.py` -> [rl, ppo]; `recipes/sft.py` -> [recipes, sft]."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return list(parts[1:] if parts[0] == "efficient_reasoning" else parts)


def imported(tree: ast.AST, module: list[str], is_package: bool = False) -> set[str]:
    """Absolute names that a tree imports, wherever in it: "torch.nn", "efficient_reasoning.errors.BadInput"."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                here = ["efficient_reasoning", *module, *(["__init__"] if is_package else [])]
                base = here[: -node.level] + base
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def rooms(names: set[str]) -> set[str]:
    """The rooms that absolute names lie in."""
    inside = [name.split(".")[1:] for name in names if name.split(".")[0] == "efficient_reasoning"]
    found = {parts[0] for parts in inside if parts and not parts[0].startswith("__")}
    # `from efficient_reasoning import solve` is an import from the room that the name is passed on from.
    homes = {name: home.split(".")[1] for name, home in efficient_reasoning._HOME.items()}
    is_room = {path.stem for path in (ROOT / "efficient_reasoning").iterdir()}
    return {room if room in is_room else homes.get(room, room) for room in found}


def violations(path: Path, source: str) -> list[str]:
    module = module_of(path)
    names = imported(ast.parse(source), module, path.name == "__init__.py")
    before = ORDER[: ORDER.index(module[0]) + 1]
    late = [f"{path.relative_to(ROOT)} imports {room}" for room in sorted(rooms(names)) if room not in before]
    # These names exist in the source tree only: after installation they are inside the package.
    outside = {name.split(".")[0] for name in names} & {"recipes", "data_tools", "configs"}
    return late + [f"{path.relative_to(ROOT)} imports top-level {name}" for name in sorted(outside)]


def test_every_module_has_its_place_in_the_order():
    assert {module_of(path)[0] for path in LIBRARY} <= set(ORDER)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_rooms_before(path):
    assert not violations(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("thinking.py", "from efficient_reasoning.errors import BadInput", 0),
        ("thinking.py", "def f():\n    from efficient_reasoning.prompts import make_prompt", 1),
        ("checkpoint.py", "from efficient_reasoning import solve, __version__", 1),
        ("answers/math.py", "from . import exact\nfrom .exact import match\nfrom ..errors import BadInput", 0),
        ("answers/__init__.py", "from . import exact\nfrom .exact import match", 0),
        ("answers/math.py", "from .. import hub", 1),
        ("errors.py", "import efficient_reasoning.cli", 1),
        ("../recipes/sft.py", "from efficient_reasoning import training\nimport torch", 0),
        ("../recipes/sft.py", "from data_tools.sample import main", 1),
    ],
)
def test_the_check_sees_what_it_should(path, source, found):
    assert len(violations((ROOT / "efficient_reasoning" / path).resolve(), source)) == found


def without_functions(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: neither bodies of functions nor what only type checkers see."""

    class Remover(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    return Remover().visit(tree)


@pytest.mark.parametrize(
    "path",
    [ROOT / "efficient_reasoning/cli.py", *(path for path in LIBRARY if module_of(path)[0] in LIGHT)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_light_modules_name_nothing_heavy_at_the_top(path):
    names = imported(without_functions(ast.parse(path.read_text(encoding="utf-8"))), module_of(path))
    assert not {name.split(".")[0] for name in names} & HEAVY


def test_light_modules_load_nothing_heavy():
    """The same at run time, which also sees what their imports import."""
    present = {module_of(path)[0] for path in LIBRARY} & set(LIGHT)
    lines = [f"import efficient_reasoning.{name}" for name in sorted({"cli", *present})]
    code = "\n".join([*lines, f"import sys; print(sorted({HEAVY!r} & set(sys.modules)))"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
