"""Check every level of every OBS trajectory of a finished run against the closed form, in float64.

The weight kept at a level must be the least-squares solution on the kept columns, W · H[:,K] · H[K,K]⁻¹, with the
same damped H. Run it on a run directory: python benchmarks/closed_form.py runs/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from diff_es.calibration import CalibrationStats
from diff_es.denoisers import Layer, denoiser_of
from diff_es.pruning import ObsConfig, ObsFamily, ObsOutput, damped_hessian, obs_trajectory
from diff_es.recipe import Recipe
from diff_es.run import Session
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory with OBS and calibration statistics")
    add_output_option(parser)
    arguments = parser.parse_args()
    session = Session(Recipe.read(arguments.run / "recipe.yaml"), arguments.run)
    stats = CalibrationStats.open(
        arguments.run / "calibration", session.plan.num_stages, shared=session.recipe.calibration.shared
    )
    denoiser = denoiser_of(session.pipe)
    worst, stored, checked = 0.0, 0.0, 0
    for stage in range(len(stats.sets)):
        for layer in session.pruner_config.layers(denoiser):
            weight = denoiser.get_parameter(f"{layer.outputs[0]}.weight").detach().double()
            errors, bank_errors = check(session, stats, stage, layer, weight)
            worst, stored, checked = max(worst, *errors), max(stored, *bank_errors), checked + len(errors)
    numbers = {"benchmark": "closed_form", "levels_checked": checked, "max_relative_error": worst}
    finish(numbers | {"max_relative_error_as_stored": stored}, arguments.json)


def check(
    session: Session, stats: CalibrationStats, stage: int, layer: Layer, weight: torch.Tensor
) -> tuple[list[float], list[float]]:
    """Relative errors (Frobenius) of each level ≥ 1 that keeps something: of the solver, and of the bank's file.

    For layers of one family and one output, as those of fashion-dit are.
    """
    (path,), (family,) = layer.outputs, layer.families
    moments = stats.of(stage, layer).moments
    assert moments is not None
    hessian = moments[path].second
    config = session.pruner_config
    columns = family.columns[0].of(torch.arange(family.count)).view(family.count, -1)
    removed = family.removed(config.num_levels)
    solved = obs_trajectory(
        [ObsOutput(weight, hessian)],
        [ObsFamily((columns,), removed)],
        config=ObsConfig(damping=config.damping),
        name=layer.name,
    )
    damped = damped_hessian(hessian, solved.damping)
    errors, bank_errors = [], []
    for level, (found,) in enumerate(solved.levels[1:-1], start=1):
        groups = solved.orders[0][removed[level] :].sort().values
        kept = columns[groups].flatten()
        right = weight @ damped[:, kept]
        exact = torch.linalg.solve(damped[kept][:, kept], right, left=False)
        thin = session.bank.thin(stage, layer, level)
        assert torch.equal(thin.kept, groups)
        errors.append(float((found - exact).norm() / exact.norm()))
        stored = thin.outputs[f"{path}.weight"].double()
        bank_errors.append(float((stored - exact).norm() / exact.norm()))
    return errors, bank_errors


if __name__ == "__main__":
    main()
