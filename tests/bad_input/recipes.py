"""Recipes that cannot be read."""

from __future__ import annotations

from bad_input.lab import Lab
from bad_input.table import REFUSED, case
from diff_es.recipe import Recipe


@case(
    "recipe: no such file",
    REFUSED,
    "recipe=…: no such file; give a YAML file, or the name of a shipped one: balanced, …",
)
def _(lab: Lab) -> object:
    return Recipe.read(lab.folder / "nowhere.yaml")


@case(
    "recipe: unknown section",
    REFUSED,
    "… cannot be used: serach: unknown key; did you mean 'search'? Known: calibration, device, dtype, …",
)
def _(lab: Lab) -> object:
    return lab.parse(serach={})


@case(
    "recipe: unknown key in a section",
    REFUSED,
    "… cannot be used: search.sparsty: unknown key; did you mean 'sparsity'? Known: …",
)
def _(lab: Lab) -> object:
    return lab.parse(search={"sparsty": 0.5})


@case("recipe: no model", REFUSED, "… cannot be used: model: is required.")
def _(lab: Lab) -> object:
    return lab.read("stages: 3")


@case(
    "recipe: a word where a number belongs", REFUSED, "… cannot be used: stages='ten': Input should be a valid integer."
)
def _(lab: Lab) -> object:
    return lab.parse(stages="ten")


@case(
    "recipe: a value out of its range",
    REFUSED,
    "… cannot be used: search.sparsity=1.5: Input should be less than or equal to 1.",
)
def _(lab: Lab) -> object:
    return lab.parse(search={"sparsity": 1.5})


@case(
    "recipe: a seed too large for those of its images",
    REFUSED,
    "… cannot be used: seed=9223372036854775807: Input should be less than or equal to 4294967295.",
)
def _(lab: Lab) -> object:
    return lab.parse(seed=2**63 - 1)


@case(
    "recipe: a power of ten that YAML takes for text",
    REFUSED,
    "… cannot be used: pruning.damping='1e-3': is text in YAML, which wants a point and a sign; write 1.0e-3.",
)
def _(lab: Lab) -> object:
    return lab.read("model: m\npruning: {damping: 1e-3}")


@case(
    "recipe: NaN or infinity",
    REFUSED,
    "… cannot be used: sampler.guidance_scale=inf: Input should be a finite number.",
)
def _(lab: Lab) -> object:
    return lab.parse(sampler={"guidance_scale": float("inf")})


@case(
    "recipe: a choice that is none",
    REFUSED,
    "… cannot be used: calibration.source='datasets': Input should be 'dataset' or 'sampling'.",
)
def _(lab: Lab) -> object:
    return lab.parse(calibration={"source": "datasets"})


@case(
    "recipe: YAML alias",
    REFUSED,
    "… is no valid YAML: aliases (*a) are not allowed in a recipe, line 2; write it out",
)
def _(lab: Lab) -> object:
    return lab.read("model: &a zoo:fashion-dit\ndevice: *a")


@case(
    "recipe: YAML tag",
    REFUSED,
    "… is no valid YAML: tags (tag:yaml.org,2002:python/name:os.system) are not allowed in a recipe, line 1; remove it",
)
def _(lab: Lab) -> object:
    return lab.read("model: !!python/name:os.system")


@case(
    "recipe: a key twice",
    REFUSED,
    "… is no valid YAML: the key model appears twice, in the section of line 1; keep one",
)
def _(lab: Lab) -> object:
    return lab.read("model: a\nmodel: b")


@case("recipe: nested without end", REFUSED, "… is no valid YAML: maximum recursion depth exceeded…")
def _(lab: Lab) -> object:
    return lab.read("[" * 100_000)
