"""Landscapes over the schedules of six stages, small enough that brute force knows their optimum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diff_es.schedule import Levels

from .spaces import space_of

H = 8
SPACE = space_of((2,) * 6, H, 0.5)
Landscape = Callable[[Levels], float]


def separable(seed: int) -> Landscape:
    """Each stage costs w·x^p: one optimum."""
    rng = np.random.default_rng(seed)
    weights, powers = rng.uniform(0.2, 3, 6), rng.uniform(1.2, 2.5, 6)
    return lambda levels: -float(np.sum(weights * (np.array(levels) / H) ** powers))


def rugged(seed: int) -> Landscape:
    """Each stage has a table of random numbers: a different best level each, many traps for single steps."""
    table = np.random.default_rng(seed).normal(size=(6, H + 1))
    return lambda levels: float(table[np.arange(6), list(levels)].sum())


def coupled(seed: int) -> Landscape:
    """As separable, and damage to neighbouring stages adds up to more than its sum."""
    rng = np.random.default_rng(seed)
    weights, powers, pairs = rng.uniform(0.2, 3, 6), rng.uniform(1.2, 2.5, 6), rng.uniform(0, 3, 5)

    def fitness(levels: Levels) -> float:
        x = np.array(levels) / H
        return -float(np.sum(weights * x**powers) + np.sum(pairs * x[:-1] * x[1:]))

    return fitness


def deceptive(seed: int) -> Landscape:
    """A wide hill of height 0.8 and a narrower one of height 1 somewhere else."""
    rng = np.random.default_rng(seed)
    decoy, goal = (np.array(SPACE.project(list(rng.uniform(0, H, 6)))) for _ in range(2))

    def fitness(levels: Levels) -> float:
        x = np.array(levels)
        return float(max(0.8 * np.exp(-np.sum((x - decoy) ** 2) / 60), np.exp(-np.sum((x - goal) ** 2) / 30)))

    return fitness


def quadratic(seed: int) -> Landscape:
    """A dense random quadratic form: every pair of stages interacts, in either direction."""
    rng = np.random.default_rng(seed)
    form, linear = rng.normal(size=(6, 6)), rng.normal(size=6)

    def fitness(levels: Levels) -> float:
        x = np.array(levels) / H
        return float(x @ form @ x + linear @ x)

    return fitness


def noise(seed: int) -> Landscape:
    """A table of random numbers for every pair of neighbouring levels: no structure but that of pairs."""
    tables = np.random.default_rng(seed).normal(size=(5, H + 1, H + 1))
    return lambda levels: float(sum(tables[i, levels[i], levels[i + 1]] for i in range(5)))


#: Families by name, from the kindest to the hardest.
FAMILIES: dict[str, Callable[[int], Landscape]] = {
    "separable": separable,
    "rugged": rugged,
    "coupled": coupled,
    "deceptive": deceptive,
    "quadratic": quadratic,
    "noise": noise,
}
