"""The conda recipe asks for what setup.cfg asks for."""

import configparser
import re

import yaml

from tests.cases.paths import ROOT

# names of conda-forge that differ
_NAMES = {
    "torch": "pytorch",
    "freud-analysis": "freud",
    "matplotlib": "matplotlib-base",
    "openmmtorch": "openmm-torch",
}


def requirement(line: str, sign: str) -> tuple[str, str]:
    name, bound = re.fullmatch(rf"([\w-]+) ?{sign}=?([\d.*]+?)(?:,.*|\.\*)?", line.strip()).groups()
    return _NAMES.get(name, name).lower(), bound


def test_recipe_and_package_ask_for_the_same():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    recipe = yaml.safe_load((ROOT / "scripts/conda/recipe.yaml").read_text())
    assert recipe["context"]["version"] == setup["metadata"]["version"]
    lines = setup["options"]["install_requires"].strip().splitlines()
    wanted = dict(requirement(line, "[=>]") for line in lines)
    torchforce = setup["options.extras_require"]["torchforce"].strip().splitlines()
    wanted |= dict(requirement(line, "[=>]") for line in torchforce if "openmmtorch" in line)
    found = dict(
        requirement(line, "(?:>=)?")
        for line in recipe["requirements"]["run"]
        if "python 3" not in line
    )
    assert found == wanted
    extras = setup["options.extras_require"]
    optional = [
        line for name in ("import", "report", "sdf") for line in extras[name].strip().splitlines()
    ]
    constrained = recipe["requirements"]["run_constraints"]
    assert dict(requirement(line, "[=>]") for line in optional) == dict(
        requirement(line, "(?:>=)?") for line in constrained
    )
    assert (
        recipe["build"]["python"]["entry_points"][0]
        in setup["options.entry_points"]["console_scripts"]
    )
