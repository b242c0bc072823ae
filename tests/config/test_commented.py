"""YAML with every default as a comment."""

import re
from pathlib import Path

import pytest
import yaml

from openmm_cgkd.config.commented import commented_yaml
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import dump, parse
from openmm_cgkd.config.system import SystemConfig
from tests.cases.paths import ETHALINE

CASES = [
    (SystemConfig, yaml.safe_load((ETHALINE / "system.yaml").read_text())),
    (RunConfig, {"system": "system.yaml", "folder": "results"}),
    (RunConfig, yaml.safe_load((ETHALINE / "run.yaml").read_text())),
]


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_what_is_set_reads_back_alone(kind, data):
    config = parse(kind, data, "file.yaml", Path())
    found = yaml.safe_load(commented_yaml(config, "What it is.\nAnd more."))
    assert parse(kind, found, "file.yaml", Path()) == config
    assert found.keys() == data.keys()


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_comments_are_the_defaults(kind, data):
    config = parse(kind, data, "file.yaml", Path())
    lines = commented_yaml(config, "head").splitlines()[1:]
    full = [re.sub(r"^# ", "", line) for line in lines]
    everything = yaml.safe_load("\n".join(full))
    assert dump(parse(kind, everything, "file.yaml", Path())) == dump(config)
    # nothing is left out
    assert everything.keys() == set(kind.model_fields)


def test_fields_are_explained():
    config = parse(RunConfig, {"system": "s.yaml", "folder": "f"}, "run.yaml", Path())
    text = commented_yaml(config, "head")
    assert re.search(r"^#   stiffness: 30000 \S+ # largest slope of the force", text, re.MULTILINE)
    assert re.search(r"^#   cutoff: 1 nanometer$", text, re.MULTILINE)  # the unit tells enough
