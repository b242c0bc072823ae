"""The rules of ``docs/architecture.md``, on the source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.cases.paths import ROOT

PACKAGE = ROOT / "openmm_cgkd"
TESTS = ROOT / "tests"

# a part may import what stands before it; parts of one line know nothing of each other
LAYERS = [
    ["exceptions", "platforms"],
    ["utils"],
    ["config"],
    ["execution"],
    ["mapping"],
    ["frames"],
    ["potential"],
    ["allatom"],
    ["mean_forces"],
    ["training"],
    ["simulation"],
    ["operators", "analysis", "testing"],
    ["report"],
    ["stages"],
    ["cli"],
    ["__main__"],
]
# old import paths, which lead anywhere and which nothing imports
OLD_PATHS = {"metadata", "mlpotential", "units", "runtime"}
KNOW_RUNS = re.compile(r"openmm_cgkd\.(stages|cli|report\.run_record|run_folder)\b")
# what belongs to one kind of hardware and has no counterpart
ONLY_CPU = {"jit", "layout", "parts", "repulsion", "simd"}
ONLY_GPU = {"cuda_graph", "launch", "self_test"}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Who imports whom, imports inside functions included, those for types alone left out."""
    return grimp.build_graph("openmm_cgkd", exclude_type_checking_imports=True, cache_dir=None)


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def part(module: str) -> str:
    """``potential`` of ``openmm_cgkd.potential.cpu.algebra``."""
    return module.split(".")[1]


def test_root_has_few_modules_and_they_are_known():
    root = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(root) <= 10
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert root | folders == {p for line in LAYERS for p in line} | OLD_PATHS | {"run_folder"}


@pytest.mark.parametrize("folder", ["openmm_cgkd", "scripts"])
def test_no_module_is_long(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in modules(ROOT / folder)}
    assert len(lengths) > 10
    assert not {str(path): n for path, n in lengths.items() if n > 400}


def test_arrows_point_one_way(imports):
    rank = {name: k for k, line in enumerate(LAYERS) for name in line}
    wrong, checked = [], 0
    for module in imports.modules - {"openmm_cgkd", "openmm_cgkd.run_folder"}:
        if part(module) in OLD_PATHS:
            continue
        for used in imports.find_modules_directly_imported_by(module):
            if used in ("openmm_cgkd", "openmm_cgkd.run_folder"):
                continue  # the public names are lazy; who knows runs is another test
            checked += 1
            here, there = part(module), part(used)
            if here != there and not (there in rank and rank[there] < rank[here]):
                wrong.append(f"{module} imports {used}")
    assert checked > 500
    assert not wrong


def test_modules_make_no_circle(imports):
    before = {
        module: imports.find_modules_directly_imported_by(module) - {"openmm_cgkd"}
        for module in imports.modules - {"openmm_cgkd"}
    }
    while free := {module for module, needs in before.items() if not needs & before.keys()}:
        for module in free:
            del before[module]
    assert not before  # what is left waits for itself


def test_libraries_know_no_run(imports):
    """RunConfig and run folder belong to stages, commands and the record of the report."""
    wrong = []
    for path in modules(PACKAGE):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if KNOW_RUNS.match(module) or part(module) == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (
                "RunConfig" in {alias.name for alias in node.names}
                or (node.module or "").endswith("run_folder")
            ):
                wrong.append(f"{module}, line {node.lineno}")
    assert not wrong


def test_cpu_and_gpu_are_file_by_file_alike():
    cpu, gpu = (
        {path.stem for path in (PACKAGE / "potential" / engine).glob("*.py")}
        for engine in ("cpu", "gpu")
    )
    assert cpu - ONLY_CPU == gpu - ONLY_GPU
    assert cpu >= ONLY_CPU
    assert gpu >= ONLY_GPU


# --- tests ----------------------------------------------------------------------------------------


def test_tests_mirror_the_package():
    """``tests/a/test_b.py`` tests ``openmm_cgkd/a/b.py`` or the package ``openmm_cgkd/a/b``."""
    folders = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")}
    wrong = []
    for path in TESTS.rglob("test_*.py"):
        relative = path.relative_to(TESTS)
        if relative.parent == Path() or relative.parts[0] in ("docs", "scripts", "systems"):
            continue  # of the whole package, or of what stands beside it
        tested = PACKAGE / relative.parent / relative.stem.removeprefix("test_")
        if relative.parent not in folders or not (
            tested.is_dir() or tested.with_suffix(".py").exists()
        ):
            wrong.append(str(relative))
    assert not wrong


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Names with one underscore that are imported, read from or set in something else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))
            yield from filter(is_private, (node.module or "").split("."))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "os") and not is_foreign(owner, node.attr):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            for given in node.args[:2]:
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    yield from filter(is_private, given.value.split("."))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_foreign(owner: str, name: str) -> bool:
    """Whether another project owns the name: documented methods of named tuples, the bare value of
    OpenMM's quantities, and torch and Triton, which offer no public name for what a test asks them.
    """
    return (
        name in ("_replace", "_asdict", "_fields", "_value")
        or owner.split(".")[0] in ("torch", "interpreter")
        or name == "_schema"
    )


@pytest.mark.parametrize("path", modules(TESTS), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_use_public_names_and_no_other_test(path):
    tree = ast.parse(path.read_text())
    assert not list(private_uses(tree))
    imported = [
        node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    ] + [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert not [name for name in imported if re.search(r"(^|\.)test_", name)]


def test_private_names_are_found():
    source = "from a import _b\nc._d\nmonkeypatch.setattr(e, '_f', 1)\nself._g\nx.__dict__\n"
    assert sorted(private_uses(ast.parse(source))) == ["_b", "_f", "c._d"]
