"""JSON Schemas of the configuration files against what reading them allows."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.schema import json_schema
from openmm_cgkd.config.section import dump, parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ConfigError

from ..cases.cli import call
from ..cases.paths import ETHALINE, SYSTEMS

KINDS = {"run": RunConfig, "system": SystemConfig}
RUN = {"system": "system.yaml", "folder": "results"}
SYSTEM = yaml.safe_load((ETHALINE / "system.yaml").read_text())


def allowed(kind: type, data: dict) -> bool:
    return jsonschema.Draft202012Validator(json_schema(kind)).is_valid(data)


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_schemas_are_those_of_this_version(kind):
    schema = json_schema(KINDS[kind])
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "younger" not in json.dumps(schema)
    assert json.loads((SYSTEMS / f"{kind}.schema.json").read_text()) == schema
    assert json.loads(call("schema", kind).stdout) == schema


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SYSTEMS.glob("*/*.yaml") if path.name != "literature.yaml"),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_shipped_files_name_their_schema_and_fit_it(path):
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
    schema = json.loads((path.parent / named[1]).read_text())
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(("kind", "data"), [(RunConfig, RUN), (SystemConfig, SYSTEM)])
def test_everything_spelled_out_fits(kind, data):
    full = yaml.safe_load(dump(parse(kind, data, "file.yaml", Path())))
    assert allowed(kind, full)


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        ({"model": {"cutoff": "12 angstrom"}}, True),
        ({"model": {"cutoff": ".8e0nm"}}, True),
        ({"model": {"cutoff": 1.2}}, False),
        ({"model": {"cutoff": "1.2"}}, False),
        ({"model": {"cutof": "1.2 nm"}}, False),
        ({"model": {"channels": 0}}, False),
        ({"model": None}, True),
        ({"model": {"channels": "8"}}, False),
        ({"simulation": {"timestep": "auto"}}, True),
        ({"simulation": {"friction": "1 1/ps"}}, True),
        ({"simulation": {"friction": "0.5 / ps"}}, True),
        ({"simulation": {"timestep": None}}, True),
        ({"simulation": {"timestep": "20 femtosecond"}}, True),
        ({"student": {"targets": "noise"}}, False),
        ({"student": {"extra": {"trajectories": ["a.dcd", "b.xtc"]}}}, True),
        ({"teachers": {"resample": "none"}}, True),
        ({"frames": None}, True),
    ],
)
def test_schema_and_reader_agree(data, fits):
    data = {**RUN, **data}
    assert allowed(RunConfig, data) is fits
    if fits:
        parse(RunConfig, data, "run.yaml", Path())
    elif data.get("model") != {"channels": "8"}:  # the reader takes a number in quotes
        with pytest.raises(ConfigError):
            parse(RunConfig, data, "run.yaml", Path())


def test_required_fields_are_required():
    for kind, data in ((RunConfig, RUN), (SystemConfig, SYSTEM)):
        for name, field in kind.model_fields.items():
            if field.is_required():
                assert not allowed(kind, {key: data[key] for key in data if key != name})
