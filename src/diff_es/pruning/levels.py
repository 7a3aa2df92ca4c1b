"""How many groups a level removes: the one place where a share becomes a count."""

from __future__ import annotations

from diff_es.errors import InputError


def removals(num_groups: int, num_levels: int) -> tuple[int, ...]:
    """Cumulative number of groups removed at each level of a layer.

    Level l removes l / H of the groups, rounded half up. The rounding is done in integers,
    `(2 * l * num_groups + H) // (2 * H)`, because a float quotient would round 0.5 differently from case to case.
    Level 0 removes nothing, level H removes every group; with fewer groups than levels, neighbouring levels repeat.

    Args:
        num_groups: Groups of the layer (heads, channels or blocks), at least 1.
        num_levels: H, the highest level, at least 1.

    Returns:
        H + 1 non-decreasing counts, index = level, from 0 to `num_groups`.

    Raises:
        InputError: If either number is below 1.
    """
    for argument, value in (("num_groups", num_groups), ("num_levels", num_levels)):
        if value < 1:
            raise InputError(f"{argument} is {value}; give at least 1")
    return tuple((2 * level * num_groups + num_levels) // (2 * num_levels) for level in range(num_levels + 1))
