"""Inception-v3 with random weights: the published ones cannot be had without a network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import BatchNorm2d
from torchvision.models import Inception3


def save_random_inception(path: Path) -> Path:
    """Write 100 MB of random weights under the names that torch-fidelity shares with torchvision.

    The batch statistics are fitted to noise, so that features differ from image to image.
    """
    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(2, 3, 299, 299))
    torch.save(network.state_dict(), path)
    return path
