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
    assert dump(parse(kind, found, "file.yaml", Path())) == dump(config)
    sections = {name for name, value in found.items() if value is None or isinstance(value, dict)}
    assert found.keys() - sections == {k for k in data if not isinstance(data[k], dict)}


@pytest.mark.parametrize(("kind", "data"), CASES)
def test_comments_are_the_defaults(kind, data):
    config = parse(kind, data, "file.yaml", Path())
    lines = commented_yaml(config, "head").splitlines()[1:]
    full = [re.sub(r"^( *)# ", r"\1", line) for line in lines]
    everything = yaml.safe_load("\n".join(full))
    assert dump(parse(kind, everything, "file.yaml", Path())) == dump(config)
    # nothing is left out
    assert everything.keys() == set(kind.model_fields)


def test_fields_are_explained():
    config = parse(RunConfig, {"system": "s.yaml", "folder": "f"}, "run.yaml", Path())
    text = commented_yaml(config, "head")
    assert re.search(r"^  # stiffness: 30000 \S+ # largest slope of the force", text, re.MULTILINE)
    assert re.search(r"^  # cutoff: 1 nanometer$", text, re.MULTILINE)  # the unit tells enough


def test_every_default_may_lose_its_mark_alone():
    config = parse(SystemConfig, CASES[0][1], "system.yaml", Path())
    lines = commented_yaml(config, "head").splitlines()
    for k, line in enumerate(lines[1:], start=1):
        if re.match(r" *# ", line):
            changed = [*lines[:k], re.sub(r"^( *)# ", r"\1", line), *lines[k + 1 :]]
            found = parse(SystemConfig, yaml.safe_load("\n".join(changed)), "system.yaml", Path())
            assert dump(found) == dump(config)
