"""The package is what the repository holds, and its parts import one another in one direction."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("calibration", "commands", "exporter", "runtime")
# An arrow may only lead from a part to one that stands after it.
ORDER = ("entry", "cli", "commands", "options", "terminal", "exporter", "calibration", "runtime")


def sources() -> list[Path]:
    return [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]


def tree() -> set[str]:
    folders = (ROOT / "calibration" / "report", ROOT / "runtime" / "cuda")
    data = [path for folder in folders for path in folder.iterdir() if path.suffix in (".jinja", ".css", ".cu", ".cuh")]
    return {f"ebm_export/{path.relative_to(ROOT).as_posix()}" for path in (*sources(), *data)}


class TestPackaging:
    def test_wheel_holds_the_tree(self, tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            "-w",
            str(tmp_path),
            ".",
        ]
        copy = tmp_path / "copy"  # a build leaves folders behind
        subprocess.run(["git", "worktree", "list"], cwd=ROOT, check=True, capture_output=True)
        names = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\n")
        for name in filter(None, names):
            if (ROOT / name).exists() and (
                name.startswith((*FOLDERS, "pyproject", "README", "LICENSE"))
                or (Path(name).match("*.py") and "/" not in name)
            ):
                target = copy / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
        subprocess.run(command, cwd=copy, check=True, capture_output=True)
        (wheel,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            held = {name for name in archive.namelist() if ".dist-info/" not in name}
            licence = [name for name in archive.namelist() if name.endswith("LICENSE")]
        assert held == tree()
        assert licence

    def test_this_install_finds_the_tree(self) -> None:
        code = "import ebm_export, pkgutil; print(*ebm_export.__path__)"
        run = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
        assert run.stdout.split()[0].rstrip("/") == str(ROOT)
        found = {info.name for info in pkgutil.walk_packages([str(ROOT / "runtime")], "ebm_export.runtime.")}
        assert "ebm_export.runtime.backends.openvino" in found


class TestImports:
    @pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_arrow_points_one_way(self, path: Path) -> None:
        parts = path.relative_to(ROOT).with_suffix("").parts
        own = ORDER.index(parts[0])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = list(parts[: len(parts) - node.level])
                target = [*base, *(node.module or "").split(".")][0]
                assert ORDER.index(target) >= own, f"{path.name} imports {target}"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                top = name.partition(".")[0]
                assert top != "ebm_export", f"{path.name}: inside the package imports are relative"
                if parts[0] == "runtime":
                    assert top not in ("torch", "onnx", "onnx_ir", "typer", "rich"), f"{path.name} imports {top}"

    def test_runtime_needs_nothing_heavy(self) -> None:
        """How fast it comes is measured in runtime/test_dependencies.py."""
        code = (
            "import sys, numpy; there = set(sys.modules); import ebm_export.runtime; "
            "heavy = 'torch', 'onnx', 'onnxruntime', 'openvino', 'typer', 'rich', 'email'; "
            "print(*[name for name in heavy if name in set(sys.modules) - there])"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout == "\n"

    @pytest.mark.parametrize(
        "command", [["ebm_export"], ["ebm_compare"], ["ebm_run"], ["ebm_run", "sample"], ["ebm_run", "verify"]]
    )
    def test_help_needs_neither_torch_nor_an_engine(self, command: list[str]) -> None:
        code = (
            "import sys; from ebm_export import cli; sys.argv = ['command', *sys.argv[2:], '--help']\n"
            f"try: cli.{command[0]}()\nexcept SystemExit as end: assert not end.code\n"
            "assert not {'torch', 'onnx', 'onnxruntime', 'openvino', 'scipy', 'jinja2'} & set(sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "Usage:" in run.stdout


class TestExports:
    @pytest.mark.parametrize("folder", FOLDERS)
    def test_all_is_true(self, folder: str) -> None:
        names = [f"ebm_export.{folder}"]
        names += [info.name for info in pkgutil.walk_packages([str(ROOT / folder)], f"ebm_export.{folder}.")]
        for name in names:
            module = importlib.import_module(name)
            exported = getattr(module, "__all__", None)
            if exported is None:
                continue
            assert len(set(exported)) == len(exported), name
            for attribute in exported:
                assert hasattr(module, attribute), f"{name}.{attribute}"
