from __future__ import annotations

import pytest

from efficient_reasoning.linear.conversion import linearize
from tests.linear.models import softmax_model, trained


@pytest.fixture(params=[(), (1, 3)], ids=["pure", "hybrid"])
def student(request):
    return trained(linearize(softmax_model(), 5, request.param))
