"""The conda recipe asks for what setup.cfg asks for."""

import configparser

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.cases.paths import ROOT

# names of conda-forge that differ
_NAMES = {
    "torch": "pytorch",
    "freud-analysis": "freud",
    "matplotlib": "matplotlib-base",
    "openmmtorch": "openmm-torch",
}


def of_setup(*parts: str) -> dict[str, SpecifierSet]:
    """Requirements by their names of conda-forge; those of an extra narrow those of the package."""
    found: dict[str, SpecifierSet] = {}
    for part in parts:
        for line in part.strip().splitlines():
            asked = Requirement(line)
            found[_NAMES.get(asked.name, asked.name).lower()] = asked.specifier
    return found


def of_recipe(lines: list[str]) -> dict[str, SpecifierSet]:
    """Requirements of the recipe, where 1.5.* stands for ==1.5.*."""
    found = {}
    for line in lines:
        name, asked = line.split(" ", 1)
        found[name] = SpecifierSet(asked if asked.startswith((">", "=")) else f"=={asked}")
    return found


def test_recipe_and_package_ask_for_the_same():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    recipe = yaml.safe_load((ROOT / "scripts/conda/recipe.yaml").read_text())
    assert recipe["context"]["version"] == setup["metadata"]["version"]
    (script,) = recipe["build"]["python"]["entry_points"]
    assert script in setup["options.entry_points"]["console_scripts"]

    asked = recipe["requirements"]
    python = SpecifierSet(setup["options"]["python_requires"])
    assert asked["run"].pop(0) == asked["host"][0] == "python 3.11.*"
    assert all(python.contains(f"3.11.{patch}") for patch in range(20))
    wanted = of_setup(setup["options"]["install_requires"], extras["torchforce"])
    # builds of conda-forge come in patches
    for name in ("openmm-torch", "torchmd-net"):
        wanted[name] = SpecifierSet(f"{wanted[name]}.*")
    assert of_recipe(asked["run"]) == wanted
    optional = of_setup(extras["import"], extras["report"], extras["sdf"])
    assert of_recipe(asked["run_constraints"]) == optional
