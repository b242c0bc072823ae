"""What README and docs show must work."""

import ast
import inspect
import re

import pytest
import yaml

import openmm_cgkd
from openmm_cgkd.config.run import RunConfig, load_run
from openmm_cgkd.config.section import dump, parse
from openmm_cgkd.config.system import SystemConfig, load_system
from tests.cases.paths import ROOT


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def test_readme_example_runs(finished_run, tmp_path, monkeypatch):
    run = finished_run[0].parent / "run"
    for source in (run / "student.pt", run / "simulation" / "topology.pdb"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    example, _ = blocks("README.md", "python")
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["simulation"].currentStep == 200
    assert scope["system"].usesPeriodicBoundaryConditions()
    assert (tmp_path / "trajectory.dcd").stat().st_size > 5 * 40 * 3 * 4  # five frames of 40 beads


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_shown_calls_fit_the_functions(page):
    calls = [
        node
        for block in blocks(page, "python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and re.fullmatch(r"cgkd\.\w+", ast.unparse(node.func))
    ]
    assert len(calls) >= 6
    for call in calls:
        assert call.func.attr in openmm_cgkd.__all__
        function = getattr(openmm_cgkd, call.func.attr)
        names = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **names)


@pytest.mark.parametrize(("kind", "name"), [(SystemConfig, "system.yaml"), (RunConfig, "run.yaml")])
def test_formats_page_lists_every_field_with_its_default(kind, name, tmp_path):
    page = (ROOT / "docs" / "formats.md").read_text()
    shown = yaml.safe_load(re.search(rf"## {name}\n.*?```yaml\n(.*?)```", page, re.DOTALL)[1])
    required = {
        name: shown[name] for name, field in kind.model_fields.items() if field.is_required()
    }
    expanded = yaml.safe_load(dump(parse(kind, required, "page", tmp_path)))
    # values are the defaults
    assert yaml.safe_load(dump(parse(kind, shown, "page", tmp_path))) == expanded

    def fields(data):
        if isinstance(data, dict):
            return {key: fields(value) for key, value in data.items()}
        return None

    assert fields(shown) == fields(expanded)  # and none is left out


def test_promises_name_tests_that_exist():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(\w+(?:/\w+)*\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for file, function in named:
        path = ROOT / "tests" / file
        assert path.exists(), f"reliability.md names {file}"
        assert f"def {function}" in path.read_text() or not function, f"{file} lacks {function}"


def test_links_and_commands_point_to_something():
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "systems").glob("*/README.md"),
    ]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), (
                f"{page.name} links to {target}"
            )
    for script in re.findall(r"\./(scripts/\w+)", (ROOT / "README.md").read_text()):
        assert (ROOT / script).exists()


@pytest.mark.parametrize("name", ["quickstart", "run", "simulate"])
def test_shipped_run_files_are_valid(name, ethaline):
    run = load_run(ethaline.parent / f"{name}.yaml")
    assert run.path(run.system) == ethaline
    load_system(run.path(run.system))
    assert run.run_folder.parent == ROOT / "runs"  # which git ignores
