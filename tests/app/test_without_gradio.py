from __future__ import annotations

import sys

import pytest

from efficient_reasoning.app import serve
from efficient_reasoning.errors import BadInput


def test_gradio_is_asked_for_by_its_extra(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "efficient_reasoning.app.page", raising=False)
    with pytest.raises(BadInput, match=r"pip install 'efficient-reasoning\[app\]'"):
        serve([make_run()])
