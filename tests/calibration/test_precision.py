"""Second moments are of full precision, also where a user trades that of matrix products for speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diff_es.calibration.precision import full_precision
from diff_es.calibration.statistics import SecondMoment

OWN = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


def everywhere(value: str) -> None:
    torch.backends.fp32_precision = value


def of_products(value: str) -> None:
    for own in OWN:
        own.fp32_precision = value


#: Ways to give precision away.
SETTINGS: dict[str, Callable[[], None]] = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "TF32 in products": lambda: of_products("tf32"),
    "bfloat16 in products": lambda: setattr(OWN[1], "fp32_precision", "bf16"),
    "TF32 everywhere": lambda: everywhere("tf32"),
    "bfloat16 everywhere": lambda: everywhere("bf16"),
}


@pytest.fixture(autouse=True)
def settings_of_a_new_process() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    everywhere("none")
    of_products("none")


class Products(TorchDispatchMode):
    """What holds for each product of matrices when it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: list[tuple[str, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.precisions.append(now())
        return func(*args, **(kwargs or {}))


def now() -> tuple[str, ...]:
    return tuple(own.fp32_precision for own in OWN)


@pytest.mark.parametrize("setting", SETTINGS)
def test_second_moments_are_of_full_precision(setting: str) -> None:
    rows = torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    SETTINGS[setting]()
    lowered = now()
    moment = SecondMoment("x", 256, rows.device)
    with Products() as products:
        moment.update(rows)
    assert products.precisions == [("ieee", "ieee")]
    assert now() == lowered
    exact = rows.double().T @ rows.double()
    # Factors of 7 bits, where the CPU multiplies such, are off by 0.1.
    assert float((moment.products - exact).abs().max()) < 5e-4


def test_a_setting_that_was_inherited_still_is() -> None:
    everywhere("tf32")
    with full_precision():
        pass
    assert now() == ("tf32", "tf32")
    everywhere("none")
    assert now() == ("none", "none")


def test_settings_come_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("medium")
    with pytest.raises(ZeroDivisionError), full_precision():
        _ = 1 / 0
    assert now() == ("tf32", "bf16")
    assert torch.get_float32_matmul_precision() == "medium"
