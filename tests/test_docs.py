"""What the documents say can be typed: names that exist, options that the commands have, files that are there."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ebm_export.commands.compare import compare_command
from ebm_export.commands.export import export_command

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, *languages: str) -> list[str]:
    return [
        text
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        if language in languages
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's shell blocks, in words; a line that ends in a backslash goes on."""
    for block in blocks(page, "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if line.startswith(("ebm-export ", "ebm-run ", "ebm-compare ")):
                yield shlex.split(line, comments=True)


@PAGE
def test_python_parses_and_imports_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        if block.startswith(" "):  # lines from the middle of a file
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ebm_export"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    # Taking a name from a module that merely uses it would break with its next change.
                    assert alias.name in getattr(module, "__all__", [alias.name]), f"{node.module} has no {alias.name}"
                    getattr(module, alias.name)


@PAGE
def test_commands_have_their_options(page: Path) -> None:
    for words in commands(page):
        known = options_of(words)
        for word in words[1:]:
            if word.startswith("--"):
                assert word.split("=")[0] in known, shlex.join(words)


@PAGE
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], link


@pytest.mark.parametrize(("name", "title"), [("xeon-amx", "benchmarks"), ("xeon-avx512", "benchmarks-avx512")])
def test_a_page_of_benchmarks_is_that_of_its_results(name: str, title: str) -> None:
    """Nobody has written a number into it by hand."""
    page = runpy.run_path(str(ROOT / "benchmarks" / "sampler_page.py"))
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert (ROOT / "docs" / f"{title}.md").read_text() == page["document"](results)


def test_results_of_benchmarks_have_the_versions_of_all_contestants(tmp_path: Path) -> None:
    results_of_this_machine = runpy.run_path(str(ROOT / "benchmarks" / "results.py"))["results_of_this_machine"]
    made = results_of_this_machine(None)
    for package in ("torch", "torchebm", "ebmkit", "onnxruntime"):
        assert made["toolchain"][package] == importlib.metadata.version(package)
    file = tmp_path / "results.json"
    for ebmkit, fits in (({}, True), ({"ebmkit": made["toolchain"]["ebmkit"]}, True), ({"ebmkit": "0.0"}, False)):
        versions = {name: version for name, version in made["toolchain"].items() if name != "ebmkit"} | ebmkit
        file.write_text(json.dumps(before := made | {"toolchain": versions}))
        if fits:
            assert results_of_this_machine(file) == before
        else:
            with pytest.raises(SystemExit, match="has results with another toolchain"):
                results_of_this_machine(file)


def test_the_page_of_benchmarks_has_deadlines_where_they_were_measured() -> None:
    page = runpy.run_path(str(ROOT / "benchmarks" / "sampler_page.py"))
    results = json.loads((ROOT / "benchmarks" / "results" / "xeon-amx.json").read_text())
    row = {
        "network": "policy",
        "chains": 512,
        "backend": "openvino",
        "sampler": "langevin",
        "fused": 16,
        "deadline ms": 5.0,
    }
    times = {
        "calls": 10_000,
        "p50 ms": 2.8,
        "p99 ms": 3.2,
        "p99.9 ms": 4.1,
        "longest ms": 5.5,
        "missed": 1,
        "median steps": 16.0,
    }
    text = page["document"](results | {"jitter": [row | times]})
    assert "10,000 for each line" in text
    assert "### policy, 512 chains" in text
    assert "| openvino, 16 fused | 5 | 2.80 | 3.20 | 4.10 | 5.50 | 0.01% | 16 |" in text
    assert "## Deadlines" not in page["document"](results | {"jitter": []})


def test_there_is_something_to_look_at() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 25
    assert sum(len(blocks(page, "python")) for page in PAGES) > 15


def options_of(words: list[str]) -> set[str]:
    """Options of the command that these words call."""
    functions = {"ebm-export": export_command, "ebm-compare": compare_command}
    if words[0] == "ebm-run":
        functions["ebm-run"] = getattr(importlib.import_module(f"ebm_export.commands.{words[1]}"), words[1])
    app = typer.Typer()
    app.command()(functions[words[0]])
    command = typer.main.get_command(app)
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
