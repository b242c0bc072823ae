"""The documentation site: `python -m sphinx -W docs runs/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate
from sphinx.application import Sphinx

import openmm_cgkd

project = "openmm_cgkd"
author = "the openmm_cgkd developers"
copyright = author
release = version = openmm_cgkd.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "openmm_cgkd"
html_show_sourcelink = False
templates_path: list[str] = []

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
nb_execution_mode = "off"  # a test of the suite runs the notebooks

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings give types with shapes and units
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def setup(app: Sphinx) -> None:
    """Write the pages that are made of other files, and lead links to them."""
    generate.write_all(Path(__file__).parent)
    app.connect("source-read", lead_to_site)


def lead_to_site(app: Sphinx, name: str, source: list[str]) -> None:
    """Links that fit the repository, as they fit the site."""
    source[0] = generate.links_of_site(source[0])
