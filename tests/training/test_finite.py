from __future__ import annotations

import pytest
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.training.finite import check_gradient


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf"))])
def test_a_gradient_that_is_no_number_stops(value):
    check_gradient(torch.tensor(3.0), 5)
    check_gradient(None, 5)
    with pytest.raises(BadInput, match=r"Stopped in step 5: the gradient is (nan|inf); the last checkpoint"):
        check_gradient(value, 5)
