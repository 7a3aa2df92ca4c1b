"""Forward noising as the model was trained on it: variance-preserving diffusion, or the straight line of a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diff_es.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def add_noise(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return latents noised to timesteps, as the denoiser sees them.

    √ᾱ x + √(1-ᾱ) ε in a diffusion, (1-σ) x + σ ε with σ = t/T in a flow. The scheduler's own `add_noise` would not do:
    that of the Euler family knows only the timesteps of the last sampling run, and returns the latents before
    `scale_model_input`.

    Args:
        scheduler: The pipeline's.
        clean: Clean latents, shape (N, …).
        noise: Of the same shape.
        timesteps: In train units, shape (N,).

    Raises:
        InputError: the scheduler is of neither kind.
    """
    check_process(scheduler)
    if is_flow(scheduler):
        sigma = _sigma(scheduler, clean, timesteps)
        return (1 - sigma) * clean + sigma * noise
    alphas = _alphas(scheduler, clean, timesteps)
    return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise


def check_process(scheduler: Any) -> None:
    """Check that it is known how the model's noise was added.

    Raises:
        InputError: the scheduler is neither of a diffusion nor of a flow.
    """
    if not is_flow(scheduler) and not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"DatasetSource cannot noise latents for {type(scheduler).__name__}, which has no alphas_cumprod and is no "
            "flow; calibrate with SamplingSource instead."
        )


def prediction_target(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the model was trained to predict: ε, the velocity √ᾱ ε - √(1-ᾱ) x, or of a flow ε - x.

    Raises:
        InputError: the model predicts something else.
    """
    if is_flow(scheduler):
        return noise - clean
    kind = scheduler.config.get("prediction_type")
    if kind not in ("epsilon", "v_prediction"):
        raise InputError(
            f"The denoising loss is known for models that predict epsilon or v_prediction; {type(scheduler).__name__} "
            f"says {kind!r}. Use a pruner without gradients, such as obs or obs-diff."
        )
    if kind == "epsilon":
        return noise
    alphas = _alphas(scheduler, clean, timesteps)
    return alphas.sqrt() * noise - (1 - alphas).sqrt() * clean


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler follows straight lines between image and noise (rectified flow)."""
    config = scheduler.config
    named = "FlowMatch" in type(scheduler).__name__
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _sigma(scheduler: Any, clean: Tensor, timesteps: Tensor) -> Tensor:
    """σ of every row, shaped to multiply latents."""
    return _shaped(timesteps.to(clean.dtype) / scheduler.config.num_train_timesteps, clean)


def _alphas(scheduler: Any, clean: Tensor, timesteps: Tensor) -> Tensor:
    """ᾱ of every row, shaped to multiply latents."""
    alphas: Tensor = scheduler.alphas_cumprod.to(clean.device, clean.dtype)
    return _shaped(alphas[timesteps], clean)


def _shaped(values: Tensor, clean: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (clean.ndim - 1))
