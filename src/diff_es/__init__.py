"""Diff-ES: faster diffusion models without retraining.

    stats = calibrate(pipe, source, CalibrationConfig(plan))
    bank = build_bank(pipe, stats, plan, BankConfig(method="obs", num_levels=16))
    fitness = TrajectoryFitness(pipe, bank, probes, bank.uniform_allocation(), metric="ssim")
    result = search_schedule(fitness, bank.space(sparsity=0.5), EvolutionConfig(seed=0))
    with routed(pipe, bank, fitness.allocation.resolve(result.levels)):
        images = pipe(...).images

or everything in one, from a recipe: `compress(Recipe.read(path), folder)`, then `load(folder / "pruned", pipe)`.
"""

import lazy_loader

# The public names are those of __init__.pyi. They are imported when first used, so that `diff-es --help` and the
# rooms without a model do not wait for torch and diffusers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
