"""The documents agree with the code: links, Python blocks, commands, the recipe page, the glossary's names."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import diff_es
from diff_es.baselines import algorithms
from diff_es.cli import app
from diff_es.denoisers import spec_of
from diff_es.evaluation.protocols import protocols
from diff_es.metrics import metrics
from diff_es.pruning import pruners
from diff_es.recipe import Recipe
from diff_es.reproduce.table import Table

#: The package of that name; `diff_es.reproduce.tables` as an attribute is the registry.
reproduce_tables = importlib.import_module("diff_es.reproduce.tables")

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WITH_PYTHON = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("python-api", "run-directory", "baselines", "reproduce", "distributed")
    ),
]
#: Folders of somebody's own machine.
PRIVATE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|mnt|Users)/")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that hosting sites make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist."
        assert linked.is_relative_to(ROOT), f"{page.name} links to {target}, outside the repository."
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}, which has no such heading."


@every_page
def test_no_page_names_a_private_folder(page: Path) -> None:
    assert not PRIVATE.search(text(page))


def test_the_private_pattern_finds_what_it_should() -> None:
    assert PRIVATE.search("see /home/me/x")
    assert PRIVATE.search("`/tmp/x`")
    assert not PRIVATE.search("/usr/share/datasets")
    assert not PRIVATE.search("https://example.org/tmp/x")


# Python blocks


def documented(name: str) -> Any:
    """The object of a dotted name that starts with diff_es: a module, or something in one."""
    module, _, last = name.rpartition(".")
    if module:
        found = getattr(importlib.import_module(module), last, None)
        if found is not None:
            return found
    return importlib.import_module(name)


def imported(tree: ast.AST) -> dict[str, Any]:
    """The objects of diff_es that a block imports, by the names that it gives them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diff_es":
            found |= {alias.asname or alias.name: documented(f"{node.module}.{alias.name}") for alias in node.names}
    return found


def resolve(node: ast.expr, known: dict[str, Any]) -> Any:
    """The object of diff_es that an expression names, or None."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, known)
        if owner is not None and not inspect.isroutine(owner):
            assert has(owner, node.attr), f"{owner} has no {node.attr!r}."
            return getattr(owner, node.attr, None)
    return None


def has(owner: Any, name: str) -> bool:
    """Whether an object has an attribute; fields of a dataclass without a default are not attributes of the class."""
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    return hasattr(owner, name) or name in fields


def check_call(node: ast.Call, known: dict[str, Any]) -> None:
    """A call of a documented function passes arguments that it takes."""
    called = resolve(node.func, known)
    if callable(called):
        keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
        inspect.signature(called).bind(*node.args, **keywords)


def names_bound(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


def check_python(sources: list[str]) -> None:
    """Check the blocks of one page, which follow each other in one session."""
    known: dict[str, Any] = {}
    bound = set(dir(builtins))
    for source in sources:
        tree = ast.parse(source)
        known |= imported(tree)
        bound |= set(names_bound(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                assert node.id in bound, f"{node.id} is used before it is defined."
            elif isinstance(node, ast.Attribute):
                resolve(node, known)
            elif isinstance(node, ast.Call):
                check_call(node, known)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_use_what_exists(page: Path) -> None:
    sources = blocks(page, "python")
    assert sources
    check_python(sources)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("from diff_es import calibrat", ImportError),
        ("from diff_es import Recipe\nRecipe.reed(1)", AssertionError),
        ("from diff_es import BankConfig\nBankConfig(levels=8)", TypeError),
        ("from diff_es import calibrate\ncalibrate()", TypeError),
        ("print(undefined)", AssertionError),
        ("a = (", SyntaxError),
    ],
)
def test_the_check_of_python_blocks_finds_mistakes(source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_python([source])


def test_the_tutorial_shows_every_verb() -> None:
    verbs = {name for name in diff_es.__all__ if name[0].islower()} - {"load_pipeline"}
    shown = "\n".join(text(page) for page in WITH_PYTHON)
    assert not {verb for verb in verbs if not re.search(rf"\b{verb}\b", shown)}


# Commands


def subcommand(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that words name, and what is left of them."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert words, f"diff-es {' '.join(words)} names no command."
        assert words[0] in command.commands, f"diff-es has no command {words[0]!r}."
        command, words = command.commands[words[0]], words[1:]
    return command, words


def shown_commands(page: Path) -> list[str]:
    """The command lines of diff-es, those on several lines joined, without variables set before them."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    plain = [re.sub(r"^(?:[A-Z_]+=\S* )+", "", line) for line in lines]
    return [line.removesuffix("&").rstrip() for line in plain if line.startswith("diff-es ")]


def mentioned_commands(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`(diff-es [^`]+)`", prose(page))]


@every_page
def test_shown_commands_parse(page: Path) -> None:
    for line in shown_commands(page):
        command, words = subcommand(shlex.split(line, comments=True)[1:])
        command.make_context("diff-es", words)  # parses, and runs nothing


@every_page
def test_mentioned_commands_and_options_exist(page: Path) -> None:
    for line in mentioned_commands(page):
        command, words = subcommand(shlex.split(line)[1:])
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = {word for word in words if word.startswith("-")} - options
        assert not unknown, f"{page.name}: {line}: unknown {unknown}."


def test_some_commands_are_shown() -> None:
    assert len(shown_commands(ROOT / "README.md")) >= 4


def every_command() -> list[list[str]]:
    """The words of each command, those of groups included."""
    found: list[list[str]] = []
    waiting: list[tuple[list[str], Any]] = [([], get_command(app))]
    while waiting:
        words, command = waiting.pop()
        below: dict[str, Any] = getattr(command, "commands", {})
        waiting += [([*words, name], own) for name, own in below.items()]
        found += [] if below else [words]
    return sorted(found)


def test_every_command_is_documented() -> None:
    shown = [line for page in PAGES for line in (*shown_commands(page), *mentioned_commands(page))]
    commands = [" ".join(["diff-es", *words]) for words in every_command()]
    assert not {command for command in commands if not any(line.startswith(command) for line in shown)}


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_explains_itself(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([a-z-]+)", text(page), re.MULTILINE)
    assert set(named) <= targets


# The recipe's page


def test_the_recipe_page_is_what_the_code_generates() -> None:
    script = ROOT / "docs" / "make_recipe.py"
    spec = importlib.util.spec_from_file_location("make_recipe", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert text(ROOT / "docs" / "recipe.md") == module.page(), "run: python docs/make_recipe.py"


def test_every_recipe_key_has_a_description() -> None:
    for section in [Recipe, *(field.annotation for field in Recipe.model_fields.values())]:
        for name, field in getattr(section, "model_fields", {}).items():
            assert field.description or hasattr(field.annotation, "model_fields"), name


@pytest.mark.parametrize("source", [source for page in PAGES for source in blocks(page, "yaml")])
def test_shown_recipes_are_valid(source: str) -> None:
    recipe = Recipe.parse(yaml.safe_load(source))
    assert recipe.pruning.method in pruners
    assert recipe.search.algorithm in algorithms
    assert recipe.search.metric in metrics


def test_every_search_and_pruner_is_documented() -> None:
    page = text(ROOT / "docs" / "baselines.md") + text(ROOT / "docs" / "how-it-works.md").lower()
    assert not {name for name in (*algorithms, *pruners) if name not in page}


def test_every_table_and_protocol_is_documented() -> None:
    modules = [
        importlib.import_module(f"{reproduce_tables.__name__}.{own.name}")
        for own in iter_modules(reproduce_tables.__path__)
    ]
    tables = {value.name for module in modules for value in vars(module).values() if isinstance(value, Table)}
    assert len(tables) >= 8
    assert not {name for name in tables if f"`{name}`" not in text(ROOT / "docs" / "reproduce.md")}
    shipped = {name for name in protocols if protocols[name].open.__module__.startswith("diff_es.")}
    assert len(shipped) >= 2
    assert not {name for name in shipped if f"### {name}" not in text(ROOT / "docs" / "evaluation.md")}


@every_page
def test_mentioned_recipe_keys_exist(page: Path) -> None:
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    for section, key in re.findall(r"`(sampler|calibration|pruning|search|evaluation)\.([a-z_]+)\b", prose(page)):
        fields: Any = getattr(sections[section], "model_fields", {})
        # `evaluation.json` is a file.
        assert key in fields or f"{section}.{key}" == "evaluation.json", f"{page.name}: no recipe key {section}.{key}."


# Names in the text


@every_page
def test_classes_and_fields_in_the_text_exist(page: Path) -> None:
    """Every code span such as `StagePlan.borders` or `diff_es.bank.ThinLayer` names something real."""
    spans = re.findall(r"`((?:diff_es\.)?[A-Za-z_]+(?:\.[A-Za-z_]+)*)`", prose(page))
    full = [span for span in spans if span.startswith("diff_es.")]
    known: dict[str, Any] = {name: getattr(diff_es, name) for name in diff_es.__all__}
    known |= {span.rpartition(".")[2]: documented(span) for span in full if span.rpartition(".")[2][0].isupper()}
    for span in spans:
        owner, _, field = span.rpartition(".")
        if owner in known or (owner.rpartition(".")[2][:1].isupper() and span in full):
            assert has(known.get(owner) or documented(owner), field), f"{page.name}: {owner} has no {field!r}."
        elif span in full:
            documented(span)


def test_the_tutorial_writes_the_spec_that_is_used() -> None:
    """Whoever follows the page word for word has the file of the package."""
    page = ROOT / "docs" / "add-a-model.md"
    assert blocks(page, "python")[1] == text(ROOT / "src" / "diff_es" / "denoisers" / "pixart.py")
    entry = blocks(page, "text")[0]
    assert " ".join(entry.split()) in " ".join(text(ROOT / "tests" / "families" / "registry.py").split())


def test_the_tutorial_s_model_is_what_it_says() -> None:
    namespace: dict[str, Any] = {}
    exec(compile(blocks(ROOT / "docs" / "add-a-model.md", "python")[0], "add-a-model", "exec"), namespace)
    layers = spec_of(namespace["model"]).width_layers(namespace["model"])
    assert [layer.name for layer in layers[:3]] == [f"transformer_blocks.0.{name}" for name in ("attn1", "attn2", "ff")]
