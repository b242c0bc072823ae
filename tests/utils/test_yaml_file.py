"""The reader of YAML: equal to PyYAML's on plain files; what costs or misleads is refused."""

import pytest
import yaml

from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.utils.yaml_file import line_of, parse_yaml, read_yaml
from tests.cases.paths import ROOT

SHIPPED = [*ROOT.glob("systems/*/*.yaml"), *ROOT.glob("docs/study/**/*.yaml")]


def read(text):
    return parse_yaml(text, "a.yaml", ConfigError)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_files_read_as_before(path):
    assert read_yaml(path, "a file", ConfigError) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),  # nitric oxide
        ("yes", "yes"),
        ("true", True),
        ("1:30", "1:30"),
        ("24:00:00", "24:00:00"),
        ("2024-13-45", "2024-13-45"),
        ("2024-01-01", "2024-01-01"),
        ("-12", -12),
        ("0", 0),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("=", "="),
        ("1.5", 1.5),
        ("1.0e+2", 100.0),
        ("'012'", "012"),
        ("~", None),
        ("298.15 kelvin", "298.15 kelvin"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_plain_values(text, value):
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_aliases_and_merged_mappings():
    text = "a: &a {x: 1, y: [2]}\nb: *a\nc:\n  <<: *a\n  x: 3\n"
    assert read(text) == yaml.safe_load(text)
    assert read("") is None


def laughs(levels: int, wide: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{k}: &a{k} [{', '.join(wide * [f'*a{k - 1}'])}]" for k in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(40, 9), "line 6: holds more than 50000 values, aliases written out"),
        (laughs(40, 2), "holds more than 50000 values, aliases written out"),
        ("a: &a\n  b: *a", r"line 2: the alias \*a names nothing that ends before it"),
        ("a: *b", r"line 1: the alias \*b names nothing"),
        ("a: [" + "1, " * 300_000 + "]", "holds more than 50000 values"),
        ("b:\na: " + "9" * 5000, "line 2: a number has 5000 digits; write at most 18"),
        ("a: 012", "line 1: 012 begins with 0, which YAML reads as octal; write 12, or '012'"),
        ("a: " + "[" * 400_000, "line 1: cannot be read as YAML .*nesting"),
        ("a: " + "[" * 31 + "]" * 31, "nested deeper than 30 levels"),
        ("\n".join(" " * k + "a:" for k in range(900)), "line 31: values are nested deeper"),
        ("- " * 500_000, "nested deeper|nesting"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice in one mapping; keep one"),
        ("b: {a: 1, 'a': 3}", "the key 'a' stands twice"),
        ("a: 1\ntrue: 2", "line 2: the key 'true' is no text; write a name before the colon"),
        ("1: 2", "the key '1' is no text"),
        ("? [1]\n: 2", "no text; write a name"),
        ("a: !!binary AAAA", "line 1: 'tag:yaml.org,2002:binary' is a tag; write plain values"),
        ("a: !!python/object/apply:os.system [ls]", "is a tag; write plain values"),
        ("a: !!python/tuple [1]", "is a tag"),
        ("a: !mine 3", "is a tag"),
        ("a: 1\n---\na: 2", "line 2: a second document begins; keep one"),
        ("a: [1, 2", "line 2: cannot be read as YAML .*; correct the text there"),
        ("a: 1\n\tb: 2", "line 2: cannot be read as YAML"),
        ("a: \x1b[2J", "cannot be read as YAML .*control characters are not allowed"),
        ("<<: [1]", "cannot be read as YAML"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(text)
    assert str(caught.value).startswith("a.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_line_of_a_value():
    text = "# head\na:\n  b:\n    - 1\n    - c: 3\nd: 4\n"
    for place, line in (
        (("a",), 2),
        (("a", "b"), 3),
        (("a", "b", 1, "c"), 5),
        (("d",), 6),
        (("a", "absent"), 2),
        (("d", "absent"), 6),
    ):
        assert line_of(text, place) == line
