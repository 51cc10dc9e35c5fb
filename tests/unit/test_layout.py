"""The house style that a machine can check: who imports whom, names, sizes, and the linter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import REPOSITORY

PACKAGE = REPOSITORY / "overhaul"
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether the import stands in the `if __name__ == "__main__"` block) of every import of ours."""
    tree = ast.parse(path.read_text())
    scripts = {id(n) for top in tree.body if isinstance(top, ast.If) for n in ast.walk(top)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [(name, id(node) in scripts) for name in names if name.split(".")[0] == "overhaul"]
    return found


def test_no_room_bears_the_name_of_a_standard_module_or_a_dependency():
    dependencies = {"torch", "torchvision", "accelerate", "datasets", "huggingface_hub", "numpy", "scipy"}
    dependencies |= {"safetensors", "jsonargparse", "tqdm", "timm", "transformers", "evaluate", "tensorboard", "wandb"}
    assert not {room_of(path) for path in FILES} - {"__init__", "__main__"} & (
        set(sys.stdlib_module_names) | dependencies
    )


def test_only_engine_configures_accelerate():
    makers = {room_of(path) for path in FILES if "Accelerator(" in path.read_text()}
    assert makers == {"system"}


def test_rooms_and_functions_stay_small():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 250, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path}: {node.name}"


def test_every_room_opens_with_a_sentence():
    for path in FILES:
        assert (ast.get_docstring(ast.parse(path.read_text())) or "").strip(), path


def test_setups_and_arguments_import_without_torch():
    doors = "overhaul, overhaul.setups, overhaul.options, overhaul.cli.arguments, overhaul.cli.main"
    script = f"import sys, {doors}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
