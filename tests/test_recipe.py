"""Recipes: strict, helpful, and the same again after writing and reading."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from diff_es import recipe as recipe_module
from diff_es.baselines import algorithms
from diff_es.errors import InputError
from diff_es.pruning import pruners
from diff_es.recipe import Comparison, Recipe, setting, shipped

RECIPES = Path(recipe_module.__file__).parent / "recipes"
SHIPPED = sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("paper/*.yaml")])
#: Shipped recipes for a model of one's own.
PRESETS = ("fast", "balanced", "best")
COUNTS = st.integers(1, 10**6)


def read(text: str | bytes) -> Recipe:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        return Recipe.read(path)


def sections(model: type[BaseModel] = Recipe, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all sections, the recipe itself included."""
    nested = [(name, field.annotation) for name, field in model.model_fields.items()]
    inner = [(name, kind) for name, kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [prefix, *(path for name, kind in inner for path in sections(kind, (*prefix, name)))]


recipes = st.fixed_dictionaries(
    {"model": st.text(min_size=1)},
    optional={
        "dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
        "device": st.sampled_from(["auto", "cpu", "cuda:1"]),
        "seed": st.integers(0, 2**32 - 1),
        "stages": COUNTS,
        "sampler": st.fixed_dictionaries({}, optional={"steps": COUNTS, "guidance_scale": st.floats(0, 1e6)}),
        "calibration": st.fixed_dictionaries(
            {},
            optional={
                "source": st.sampled_from(["dataset", "sampling"]),
                "data": st.text(),
                "samples": COUNTS,
                "shared": st.booleans(),
                "memory_limit_gib": st.floats(0, 1e6, exclude_min=True),
            },
        ),
        "pruning": st.fixed_dictionaries(
            {}, optional={"method": st.text(), "levels": COUNTS, "damping": st.floats(0, 1, exclude_min=True)}
        ),
        "search": st.fixed_dictionaries(
            {},
            optional={
                "algorithm": st.text(),
                "seed": st.none() | st.integers(0, 2**32 - 1),
                "sparsity": st.floats(0, 1),
                "generations": st.integers(0, 10**6),
                "metric": st.text(),
            },
        ),
        "evaluation": st.fixed_dictionaries(
            {},
            optional={
                "compare": st.lists(st.sampled_from(get_args(Comparison)), unique=True),
                "images": st.integers(4, 10**6),
                "latency_batch_sizes": st.lists(COUNTS, min_size=1, max_size=5),
                "latency_repeats": COUNTS,
            },
        ),
    },
)


@example({"model": "\x85"})
@example({"model": "häuser/模型"})
@given(recipes)
def test_what_is_written_reads_back_equal(content: dict[str, Any]) -> None:
    recipe = Recipe.parse(content)
    assert read(recipe.dump()) == recipe
    for name, value in content.items():
        got = getattr(recipe, name)
        if isinstance(value, dict):
            assert {key: getattr(got, key) for key in value} == {
                key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
            }
        else:
            assert got == value


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_shipped_recipes_read_and_name_what_there_is(path: Path) -> None:
    recipe = Recipe.read(path, {"model": "zoo:fashion-dit"} if path.stem in PRESETS else None)
    assert recipe.model.startswith("zoo:") or path.parent.name == "paper"
    assert read(recipe.dump()) == recipe
    assert recipe.pruning.method in pruners and recipe.search.algorithm in algorithms


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_that_it_wants_a_model(name: str) -> None:
    with pytest.raises(InputError, match=r"model: is required"):
        Recipe.read(shipped(name))


def test_keys_of_a_file_can_be_replaced() -> None:
    recipe = Recipe.read(shipped("fast"), {"model": "m", "search.sparsity": 0.4, "sampler.arguments": {"height": 64}})
    plain = Recipe.read(shipped("fast"), {"model": "m"})
    assert (recipe.search.sparsity, recipe.sampler.arguments) == (0.4, {"height": 64})
    assert recipe.search.generations == plain.search.generations == 10
    assert recipe == plain.changed({"search": {"sparsity": 0.4}, "sampler": {"arguments": {"height": 64}}})
    with pytest.raises(InputError, match=r"search\.sparsty: unknown key; did you mean 'sparsity'"):
        Recipe.read(shipped("fast"), {"model": "m", "search.sparsty": 0.4})
    with pytest.raises(InputError, match=r"stages="):
        Recipe.read(shipped("fast"), {"model": "m", "stages.x": 1, "stages": "many"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stages=4", ("stages", 4)),
        ("search.sparsity=0.25", ("search.sparsity", 0.25)),
        ("sampler.arguments={height: 64}", ("sampler.arguments", {"height": 64})),
        ("prompts=a=b.txt", ("prompts", "a=b.txt")),
    ],
)
def test_settings_are_read_as_yaml(text: str, expected: tuple[str, object]) -> None:
    assert setting(text) == expected


@pytest.mark.parametrize("text", ["stages", "=4", "search..sparsity=1", "1=2", "stages={", "stages=*a", "stages=!!x 1"])
def test_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        setting(text)


def test_there_is_a_shipped_recipe() -> None:
    assert "demo" in {path.stem for path in SHIPPED}


def test_every_key_is_described_and_dumped() -> None:
    dumped = yaml.safe_load(Recipe(model="m").dump())
    for path in sections():
        model, content = Recipe, dumped
        for name in path:
            model, content = model.model_fields[name].annotation, content[name]  # type: ignore[assignment]
        assert list(content) == list(model.model_fields), "in the order of the definition"
        leaves = [field for name, field in model.model_fields.items() if (*path, name) not in sections()]
        assert all(field.description for field in leaves)


def test_the_keys_of_older_recipes_are_answered_with_their_successors() -> None:
    with pytest.raises(InputError) as caught:
        read("model: m\nevaluation: {probes: 16, latency_batch_size: 8}")
    assert "evaluation.probes: unknown key" in str(caught.value)
    assert "evaluation.latency_batch_size: unknown key; did you mean 'latency_batch_sizes'?" in str(caught.value)


def test_a_recipe_without_sections_has_the_papers_search() -> None:
    search = read("model: m").search
    assert (search.generations, search.survivors, search.offspring, search.max_mutation) == (100, 4, 16, 5)
    assert search.sparsity == 0.5 and read("model: m").stages == 10


@pytest.mark.parametrize("path", sections(), ids=".".join)
def test_an_unknown_key_is_answered_with_the_nearest_one(path: tuple[str, ...]) -> None:
    model: Any = Recipe
    for name in path:
        model = model.model_fields[name].annotation
    for known in model.model_fields:
        content: dict[str, Any] = {"model": "m"}
        inner = content
        for name in path:
            inner[name] = {}
            inner = inner[name]
        misspelt = known[:-1] + "x" + known[-1]
        inner[misspelt] = 1
        with pytest.raises(InputError) as caught:
            Recipe.parse(content)
        where = ".".join((*path, misspelt))
        assert f"{where}: unknown key; did you mean {known!r}? Known: " in str(caught.value)


def test_every_problem_is_listed() -> None:
    with pytest.raises(InputError) as caught:
        read("stages: 0\nseed: -1\nsearch: {probes: many, sparsty: 1}")
    message = str(caught.value)
    for part in ("model: is required", "stages=0", "seed=-1", "search.probes='many'", "search.sparsty: unknown key"):
        assert part in message


@pytest.mark.parametrize(
    "line",
    [
        "stages: 2.0",
        "stages: '2'",
        "stages: true",
        "seed: 1.5",
        "sampler: 20",
        "sampler: [steps]",
        "sampler: {steps: null}",
        "calibration: {shared: 1}",
        "calibration: {memory_limit_gib: 0}",
        "pruning: {damping: 0}",
        "pruning: {damping: 1.01}",
        "search: {sparsity: .nan}",
        "search: {sparsity: -0.1}",
        "sampler: {guidance_scale: .inf}",
        "evaluation: {compare: uniform}",
        "evaluation: {compare: [unifrom]}",
        "evaluation: {images: 3}",
        "evaluation: {latency_batch_sizes: []}",
        "evaluation: {latency_batch_sizes: [0]}",
        "evaluation: {latency_batch_sizes: 8}",
        "search: {seed: -1}",
        "search: {seed: 0.0}",
        "search: {algorithm: 3}",
        "dtype: float64",
        "1: 2",
        "2020-01-01: x",
        "[a, b]: x",
        "<<: {seed: 1}",
    ],
)
def test_values_are_taken_strictly(line: str) -> None:
    assert read("model: m\n")
    with pytest.raises(InputError, match=r"r\.yaml"):
        read(f"model: m\n{line}")


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words", "42", "null", "a: b: c", "\t", "{", "--- a\n--- b"])
def test_other_yaml_and_no_yaml(text: str) -> None:
    with pytest.raises(InputError, match=r"r\.yaml (cannot be used|is no valid YAML)"):
        read(text)


def test_aliases_tags_and_repeated_keys_are_refused() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    for text, word in [
        (bomb, "aliases"),
        ("model: !!str m", "tags"),
        ("model: !!python/object/apply:os.system [echo]", "tags"),
        ("model: !m m", "tags"),
        ("model: m\nsearch: {probes: 1, probes: 2}", "the key probes appears twice"),
    ]:
        with pytest.raises(InputError, match=word):
            read(text)


def test_files_that_are_too_large_missing_or_no_text() -> None:
    with pytest.raises(InputError, match="larger than"):
        read(b"#" * (2**20 + 1))
    with pytest.raises(InputError, match="no such file"):
        Recipe.read(Path("nowhere.yaml"))
    with pytest.raises(InputError, match="no such file"):
        Recipe.read(Path(__file__).parent)
    with pytest.raises(InputError, match="no valid YAML"):
        read(b"model: \xff\xfe")


MARKS = [
    "model: m\n",
    "search:\n",
    "  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!int ",
    "!!binary ",
    "? ",
    ": ",
    "|\n",
]
VALUES = [
    ".nan",
    ".inf",
    "9" * 5000,
    "2020-13-45",
    "0x",
    "1e999",
    "~",
    "'",
    '"\\ud800"',
    "#",
    "%YAML 9.9\n",
    "---\n",
    "\0",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(MARKS + VALUES), max_size=12).map("".join), st.text(max_size=40)))
@example("seed: " + "9" * 5000)
@example("model: 2020-13-45")
@example("[" * 2_000)
@example("{" * 2_000)
@example('model: "\\ud800"')
def test_any_text_is_a_recipe_or_an_input_error(text: str) -> None:
    try:
        recipe = read(text)
    except InputError as error:
        assert str(error).count("r.yaml") >= 1
    else:
        assert read(recipe.dump()) == recipe


def test_sections_are_values() -> None:
    """Frozen and comparable: resuming compares recipes."""
    with pytest.raises(ValueError, match="frozen"):
        Recipe(model="m").stages = 3  # type: ignore[misc]
    assert Recipe(model="m") == Recipe(model="m") != Recipe(model="m", seed=1)
    assert math.isclose(Recipe(model="m").search.sparsity, 0.5)


def test_changes_are_merged_section_by_section() -> None:
    recipe = Recipe.parse({"model": "m", "stages": 5, "search": {"probes": 3, "sparsity": 0.25}})
    changed = recipe.changed({"stages": 7, "search": {"probes": 8}, "evaluation": {"compare": []}})
    assert changed == Recipe.parse(
        {"model": "m", "stages": 7, "search": {"probes": 8, "sparsity": 0.25}, "evaluation": {"compare": []}}
    )
    assert (recipe.stages, recipe.search.probes) == (5, 3), "the recipe itself stays"
    assert recipe.changed({}) == recipe
    assert changed.changed({"search": {"seed": 4}}).changed({"search": {"seed": None}}) == changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stagse": 4}, "stagse: unknown key; did you mean 'stages'"),
        ({"search": {"prboes": 4}}, r"search\.prboes: unknown key; did you mean 'probes'"),
        ({"serach": {"probes": 4}}, "serach: unknown key; did you mean 'search'"),
        ({"search": {"probes": 0}}, r"search\.probes=0"),
        ({"search": 4}, "search=4"),
        ({"search": None}, "search=None"),
        ({"stages": {"search": 4}}, r"stages=\{'search': 4\}"),
        ({"model": None}, "model=None"),
    ],
    ids=str,
)
def test_impossible_changes_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Recipe(model="m").changed(changes)


def test_shipped_recipes_are_found_by_name() -> None:
    assert shipped("demo") in SHIPPED and not shipped("no-such").exists()
    for path in SHIPPED:
        assert shipped(path.relative_to(RECIPES).with_suffix("").as_posix()) == path
    with pytest.raises(InputError, match=r"no such file; .* a shipped one: .*demo.*paper/dit-obs"):
        Recipe.read(Path("nowhere.yaml"))


def test_a_comparison_named_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"evaluation\.compare.*named once"):
        Recipe.parse({"model": "x", "evaluation": {"compare": ["uniform", "three-stage", "uniform"]}})


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"racing_margin": 3.0, "batch_size": "auto"}, "racing needs a batch_size below probes, not auto"),
        ({"racing_margin": 3.0}, "racing needs batch_size and racing_probes below probes"),
        ({"racing_margin": 3.0, "batch_size": 4, "racing_probes": 16}, "below probes"),
        ({"racing_margin": 3.0, "batch_size": 4, "algorithm": "greedy"}, "racing_margin is for the evolution; greedy"),
        ({"racing_margin": -1.0}, r"search\.racing_margin=-1"),
        ({"racing_probes": 1}, r"search\.racing_probes=1"),
    ],
    ids=str,
)
def test_a_race_that_cannot_be_run_is_refused(search: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Recipe.parse({"model": "x", "search": search})
    assert Recipe.parse({"model": "x", "search": {"racing_margin": 3.0, "batch_size": 4}}).search.racing_probes == 4


@pytest.mark.parametrize(
    ("text", "way_out"), [("1e-3", "1.0e-3"), ("5E1", "5.0e+1"), ("2.5e1", "2.5e+1"), ("1.e0", "1.e+0")]
)
def test_the_way_out_of_a_power_of_ten_is_one(text: str, way_out: str) -> None:
    """YAML takes these for text; what the message says is read as the number."""
    with pytest.raises(InputError, match=rf"guidance_scale='{text}': is text in YAML.*; write {re.escape(way_out)}\."):
        read(f"model: m\nsampler: {{guidance_scale: {text}}}")
    assert read(f"model: m\nsampler: {{guidance_scale: {way_out}}}").sampler.guidance_scale == float(text)


@pytest.mark.parametrize("text", ["'0.5'", "high", "e3"])
def test_other_texts_are_no_powers(text: str) -> None:
    with pytest.raises(InputError, match="should be a valid number"):
        read(f"model: m\nsampler: {{guidance_scale: {text}}}")
