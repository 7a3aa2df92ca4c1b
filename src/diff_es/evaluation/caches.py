"""Feature caches of others, put on a pipeline while it is measured: DeepCache, First Block Cache.

Calibration and search run the model without them (see `denoisers.accelerators`); the routed model may have one on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from diffusers import CacheMixin, FirstBlockCacheConfig

from diff_es.denoisers import denoiser_of
from diff_es.errors import InputError

_INSTALL = "pip install 'diff-es[deepcache]'"


@dataclass(frozen=True)
class DeepCache:
    """DeepCache (Ma et al. 2024, arXiv 2312.00858) on a U-Net, at its outermost branch.

    Attributes:
        interval: Every step of that number is computed in full; the others take the deep features of the last full one.
    """

    interval: int

    def __post_init__(self) -> None:
        if self.interval < 2:
            raise InputError(f"DeepCache.interval={self.interval}: need ≥ 2; at 1 every step is computed in full.")

    def __str__(self) -> str:
        return f"DeepCache, interval {self.interval}"

    def check(self, pipe: Any) -> None:
        """Check that the pipeline can have it.

        Raises:
            InputError: no U-Net, or the package is missing.
        """
        if getattr(pipe, "unet", None) is None:
            raise InputError(f"{self} is for U-Nets, and {type(pipe).__name__} has none: remove it.")
        _helper_class()

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Have it on the pipeline while the context lasts."""
        helper = _helper_class()(pipe=pipe)
        helper.set_params(cache_interval=self.interval, cache_branch_id=0)
        helper.enable()
        try:
            yield
        finally:
            helper.disable()


@dataclass(frozen=True)
class FirstBlockCache:
    """First Block Cache of diffusers on a transformer.

    Attributes:
        threshold: A call in which the first block's residual changes by less, relatively, takes the other blocks'
            residual of the last full call.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise InputError(f"FirstBlockCache.threshold={self.threshold}: need > 0; at 0 nothing is cached.")

    def __str__(self) -> str:
        return f"First Block Cache, threshold {self.threshold:g}"

    def check(self, pipe: Any) -> None:
        """Check that the pipeline can have it.

        Raises:
            InputError: diffusers has none for its denoiser.
        """
        if not isinstance(denoiser_of(pipe), CacheMixin):
            raise InputError(f"{self}: diffusers has no cache for {type(denoiser_of(pipe)).__name__}; remove it.")

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Have it on the pipeline while the context lasts."""
        denoiser: Any = denoiser_of(pipe)
        denoiser.enable_cache(FirstBlockCacheConfig(threshold=self.threshold))
        try:
            yield
        finally:
            denoiser.disable_cache()


Cache: TypeAlias = DeepCache | FirstBlockCache


def cache_for(deep_cache: int, first_block_cache: float) -> Cache | None:
    """Return the cache that a recipe asks for.

    Args:
        deep_cache: DeepCache's interval; 1 for none.
        first_block_cache: First Block Cache's threshold; 0 for none.

    Raises:
        InputError: it asks for both.
    """
    if deep_cache > 1 and first_block_cache > 0:
        raise InputError(
            f"evaluation.deep_cache={deep_cache} is for U-Nets and evaluation.first_block_cache={first_block_cache:g} "
            "for transformers; remove one of the two."
        )
    if deep_cache > 1:
        return DeepCache(deep_cache)
    return FirstBlockCache(first_block_cache) if first_block_cache > 0 else None


def _helper_class() -> Any:
    try:
        from DeepCache import DeepCacheSDHelper  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InputError(f"DeepCache needs a package that is not installed: {_INSTALL}.") from error
    return DeepCacheSDHelper
