"""Tiny models are fastest on one thread, and steadier beside other work."""

import pytest
import torch

from tests.luvc import tiny as tiny_internvl
from tests.luvc import tiny_qwen

torch.set_num_threads(1)


@pytest.fixture(params=[tiny_internvl, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
def tiny(request):
    """A module that makes tiny models of one family and their reference answers."""
    return request.param
