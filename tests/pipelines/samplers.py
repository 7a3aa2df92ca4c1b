"""diffusers' schedulers as users put them into a pipeline: by `from_config` of the pipeline's own, with options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)


@dataclass(frozen=True)
class Sampler:
    """One scheduler with its options.

    Attributes:
        name: As the documents call it.
        kind: The scheduler's class.
        options: What `from_config` gets besides the configuration of the pipeline's own scheduler.
        second_order: Whether it calls the denoiser twice at each step but one (Heun).
        extra_calls: Denoiser calls beyond one per step otherwise (PNDM: 1).
    """

    name: str
    kind: type[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    second_order: bool = False
    extra_calls: int = 0

    def calls(self, steps: int) -> int:
        """Timesteps that it visits in so many steps, those that it visits twice counted twice."""
        return 2 * steps - 1 if self.second_order else steps + self.extra_calls

    def put_into(self, pipe: Any) -> None:
        """Replace the pipeline's scheduler."""
        pipe.scheduler = self.kind.from_config(pipe.scheduler.config, **self.options)


#: For models that predict the noise (or v).
DDIM = Sampler("DDIM", DDIMScheduler)
DDPM = Sampler("DDPM", DDPMScheduler)
EULER = Sampler("Euler", EulerDiscreteScheduler)
EULER_ANCESTRAL = Sampler("Euler ancestral", EulerAncestralDiscreteScheduler)
DPM = Sampler("DPM-Solver++ 2M", DPMSolverMultistepScheduler)
DPM_KARRAS = Sampler("DPM-Solver++ 2M Karras", DPMSolverMultistepScheduler, {"use_karras_sigmas": True})
DPM_SDE = Sampler("DPM-Solver++ 2M SDE", DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"})
DPM_SINGLE = Sampler("DPM-Solver++ 2S", DPMSolverSinglestepScheduler, {"lower_order_final": True})
UNIPC = Sampler("UniPC", UniPCMultistepScheduler)
HEUN = Sampler("Heun", HeunDiscreteScheduler, second_order=True)
PNDM = Sampler("PNDM", PNDMScheduler, {"skip_prk_steps": True}, extra_calls=1)
LCM = Sampler("LCM", LCMScheduler)
DIFFUSION = (
    *(DDIM, DDPM, EULER, EULER_ANCESTRAL, DPM, DPM_KARRAS, DPM_SDE),
    *(DPM_SINGLE, UNIPC, HEUN, PNDM, LCM),
)

_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
_STILL = {"use_dynamic_shifting": False}
_DYNAMIC = {"use_dynamic_shifting": True}

#: For flow models.
FLOW_EULER = Sampler("flow-match Euler", FlowMatchEulerDiscreteScheduler, {"shift": 1.0, **_STILL})
FLOW_SHIFTED = Sampler("flow-match Euler, shift 3", FlowMatchEulerDiscreteScheduler, {"shift": 3.0, **_STILL})
FLOW_DYNAMIC = Sampler("flow-match Euler, dynamic shift", FlowMatchEulerDiscreteScheduler, _DYNAMIC)
FLOW_STOCHASTIC = Sampler(
    "flow-match Euler, stochastic", FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True, **_STILL}
)
FLOW_HEUN = Sampler("flow-match Heun", FlowMatchHeunDiscreteScheduler, {"shift": 3.0}, second_order=True)
FLOW_UNIPC = Sampler("UniPC, flow sigmas", UniPCMultistepScheduler, {**_FLOW, **_STILL})
FLOW_DPM = Sampler("DPM-Solver++ 2M, flow sigmas", DPMSolverMultistepScheduler, {**_FLOW, **_STILL})
FLOW_DPM_SDE = Sampler(
    "DPM-Solver++ 2M SDE, flow sigmas",
    DPMSolverMultistepScheduler,
    {**_FLOW, **_STILL, "algorithm_type": "sde-dpmsolver++"},
)
FLOW_EULERS = (FLOW_EULER, FLOW_SHIFTED, FLOW_STOCHASTIC)
FLOW_DPM_DYNAMIC = Sampler(
    "DPM-Solver++ 2M, flow sigmas, dynamic shift", DPMSolverMultistepScheduler, {**_FLOW, **_DYNAMIC}
)
