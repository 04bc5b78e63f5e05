"""Tiny models are fastest on one thread, and steadier beside other work."""

import torch

torch.set_num_threads(1)
