"""Install and remove the router: `apply_`, `remove_`, and the context manager `routed`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

from diff_es.denoisers import ROUTER, denoiser_of, dense_denoiser_of, fingerprint
from diff_es.errors import InputError, UnsupportedModelError
from diff_es.routing.planner import choose_mode
from diff_es.routing.residence import Mode
from diff_es.routing.router import Router, check_schedule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diff_es.bank import ThinSource
    from diff_es.schedule import PruningSchedule

_HANDLES = "_diff_es_handles"
_log = logging.getLogger(__name__)


def apply_(
    pipe: Any,
    source: ThinSource,
    schedule: PruningSchedule,
    *,
    mode: Mode | Literal["auto"] = "resident",
    memory_limit: int | None = None,
) -> Router:
    """Route the pipeline's denoiser by a schedule; the denoiser is modified in place.

    Args:
        pipe: A diffusers pipeline whose denoiser is dense.
        source: The bank, or a loaded artefact, that holds the pruned weights of this very model.
        schedule: What to run.
        mode: "resident" keeps the thin weights of all stages on the device; "stream" those of two, the next ones being
            copied from host memory meanwhile, in at most a tenth more memory than the dense model takes; "gather" cuts
            them out of the dense backbone at each stage switch.
            "auto" takes the fastest of them that fits and says why in the log (see `choose_mode`).
        memory_limit: For "auto": bytes of device memory for the denoiser's weights; by default what is free.

    Raises:
        UnsupportedModelError: the model is routed already, cannot be pruned as it is, or is not the one that the
            weights belong to.
        InputError: the schedule does not fit the weights, no mode fits the memory limit, or a limit was given for
            another mode than "auto".
    """
    denoiser = dense_denoiser_of(pipe)
    if memory_limit is not None and mode != "auto":
        raise InputError(f'memory_limit={memory_limit} chooses among modes: give mode="auto", not {mode!r}.')
    check_model(denoiser, source)
    check_schedule(source, schedule)
    if mode == "auto":
        plan = choose_mode(pipe, source, schedule, memory_limit)
        _log.info("Memory mode %s", plan.why)
        mode = plan.mode
    router = Router(denoiser, source, mode)
    router.set_schedule(schedule)
    install_(denoiser, router)
    return router


def install_(denoiser: nn.Module, router: Router) -> None:
    """Hook a router that has its schedule to the denoiser it was made for."""
    handles = (
        denoiser.register_forward_pre_hook(_on_call, with_kwargs=True, prepend=True),
        denoiser.register_state_dict_pre_hook(_on_save),  # type: ignore[no-untyped-call]
        denoiser.register_load_state_dict_pre_hook(_on_load),  # type: ignore[no-untyped-call]
    )
    vars(denoiser).update({ROUTER: router, _HANDLES: handles, "_apply": MethodType(_convert, denoiser)})
    try:
        router.stand_by()
    except BaseException:
        _uninstall_(denoiser)
        raise


def remove_(pipe: Any) -> None:
    """Restore the dense denoiser: the very same tensors as before `apply_`.

    Raises:
        UnsupportedModelError: the model is not routed.
    """
    denoiser = denoiser_of(pipe)
    if not is_routed(pipe):
        raise UnsupportedModelError("The denoiser is not routed; there is nothing to remove.")
    _uninstall_(denoiser)


def _uninstall_(denoiser: nn.Module) -> None:
    vars(denoiser)[ROUTER].release()
    for handle in vars(denoiser)[_HANDLES]:
        handle.remove()
    for name in (ROUTER, _HANDLES, "_apply"):
        del vars(denoiser)[name]


@contextmanager
def routed(
    pipe: Any,
    source: ThinSource,
    schedule: PruningSchedule,
    *,
    mode: Mode | Literal["auto"] = "resident",
    memory_limit: int | None = None,
) -> Iterator[Router]:
    """Route the pipeline within a block, as `apply_` does; the dense model is back afterwards, whatever happens."""
    router = apply_(pipe, source, schedule, mode=mode, memory_limit=memory_limit)
    try:
        yield router
    finally:
        remove_(pipe)


def is_routed(pipe: Any) -> bool:
    """Whether the pipeline's denoiser carries a router."""
    return ROUTER in vars(denoiser_of(pipe))


def check_model(denoiser: nn.Module, source: ThinSource) -> None:
    """Check that pruned weights belong to this denoiser.

    Raises:
        UnsupportedModelError: another model, or the same one in another data type.
    """
    found = fingerprint(denoiser)
    if found == source.fingerprint:
        return
    hint = "load the model that was pruned"
    if found.dtype != source.fingerprint.dtype:
        hint += f" with dtype={source.fingerprint.dtype} (it may be moved to another dtype once routed)"
    raise UnsupportedModelError(
        f"The pruned weights belong to another model: made for {source.fingerprint.describe()}, "
        f"given {found.describe()}; {hint}."
    )


def _on_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    vars(module)[ROUTER].on_call(args, kwargs)


def _on_save(module: nn.Module, *_: Any) -> None:
    """A state dict of one stage's shapes could not be loaded by anyone: save the dense weights."""
    vars(module)[ROUTER].point_at(None)


def _on_load(*_: Any) -> None:
    raise UnsupportedModelError("Loading weights into a routed denoiser would mix models: call remove_(pipe) first.")


def _convert(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Stand in for nn.Module._apply: move the parked weights along with the attached ones."""
    router: Router = vars(self)[ROUTER]
    with router.converted(function):
        type(self)._apply(self, function, recurse)  # type: ignore[no-untyped-call]
    return self
