"""The house style that a machine can check: who imports whom, names, sizes, errors, and the linter."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import REPOSITORY

PACKAGE = REPOSITORY / "overhaul"
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = (  # each may import what stands above it
    {"system"},
    {"catalogue", "discovery"},
    {"nets", "methods", "published"},
    {"schedule"},
    {"options", "recipe", "row_nets"},
    {"chosen", "usual"},
    {"idle"},
    {"setups"},
    {"listing", "models", "data", "run"},
    {"distill", "report", "timm_classifier"},
    {"hub", "timm_torchvision"},
    {"training", "timm_models"},
    {"bench", "demo", "inspection", "reported", "trained"},
    {"study"},
    {"api"},
    {"cli"},
    {"__init__", "__main__", "train"},  # the doors
)
LEVEL = {place: level for level, places in enumerate(ORDER) for place in places}
DEPENDENCIES = {
    *(
        "torch",
        "torchvision",
        "torchcodec",
        "accelerate",
        "datasets",
        "huggingface_hub",
        "numpy",
        "scipy",
        "safetensors",
    ),
    *("yaml", "tqdm", "jinja2", "matplotlib", "timm", "transformers", "evaluate", "tensorboard", "wandb"),
}


def name_of(path: Path) -> str:
    """overhaul.data.images, or overhaul.data for its __init__."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 2 and parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name if name in NAMES else name.rpartition(".")[0] for name in names if name.startswith("overhaul")}
    return found - {"overhaul"}


def folder_of(name: str) -> str:
    return name.split(".")[1]


def test_imports_point_down_only():
    up = [
        f"{name_of(path)} imports {theirs}"
        for path in FILES
        for theirs in imports(path)
        if (mine := folder_of(name_of(path))) != folder_of(theirs) and LEVEL[folder_of(theirs)] >= LEVEL[mine]
    ]
    assert not up


def test_there_is_no_circle_inside_a_folder():
    graph = {name_of(path): imports(path) for path in FILES}
    while leaves := [name for name, below in graph.items() if not below & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_no_room_bears_the_name_of_a_standard_module_or_a_dependency():
    first_floor = {folder_of(name_of(path)) for path in FILES} - {"__init__", "__main__"}
    assert not first_floor & ({*sys.stdlib_module_names} | DEPENDENCIES)


def test_only_the_system_configures_accelerate_asks_for_the_process_and_exchanges():
    exchanges = ("accelerator.gather", "accelerator.reduce", "gather_object", "wait_for_everyone", "main_process_first")
    for words in ("Accelerator(", "is_main_process", '"RANK"', *exchanges):
        users = {folder_of(name_of(path)) for path in FILES if words in path.read_text()}
        assert users <= {"system", *(["run", "cli"] if words == '"RANK"' else [])}, words


def test_what_the_user_can_mend_is_a_user_error():
    """Any other error is a fault of ours, which keeps its traceback."""
    raised = {
        (str(path), node.lineno)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and "ValueError" in ast.unparse(node)
    }
    assert not raised


def test_no_message_sends_anybody_to_a_package_index_for_a_package_of_our_name():
    assert not [path for path in FILES if re.search(r"pip install\W+overhaul", path.read_text())]


def test_rooms_and_functions_stay_small():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 250, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path}: {node.name}"
    assert len((PACKAGE / "training" / "trainer.py").read_text().splitlines()) < 200


def test_every_room_opens_with_a_sentence():
    for path in FILES:
        assert (ast.get_docstring(ast.parse(path.read_text())) or "").strip(), path


def test_no_test_imports_another():
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert not any(name.split(".")[-1].startswith(("test_", "conftest")) for name in names), path


def test_the_doors_import_without_torch():
    doors = "overhaul, overhaul.setups, overhaul.options, overhaul.api, overhaul.cli.arguments, overhaul.cli.main"
    script = f"import sys, {doors}; assert not {{'torch', 'torchvision'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
