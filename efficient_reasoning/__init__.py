"""Efficient reasoning: give it a model that thinks too long, get back one that thinks less at the same accuracy.

The public names load on first use, so that `import efficient_reasoning` costs milliseconds.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "load_reasoner": "efficient_reasoning.inference",
    "solve": "efficient_reasoning.inference",
    "evaluate": "efficient_reasoning.evaluation",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
