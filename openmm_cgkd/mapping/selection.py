"""Atoms of a bead by MDTraj's selection language, without its silences."""

from __future__ import annotations

import ast

import mdtraj
import numpy as np

from openmm_cgkd.exceptions import MappingError


def select_atoms(molecule: mdtraj.Topology, selection: str) -> np.ndarray:
    """Atoms of one molecule, as a selection names them.

    MDTraj leaves out names that no atom has, and compares ranges of names as text, in which C10
    stands between C1 and C2. Both are refused.

    Parameters
    ----------
    molecule : mdtraj.Topology
    selection : str

    Returns
    -------
    ndarray of int
        Indices within the molecule.

    Raises
    ------
    MappingError
        If the selection is not valid, or names what the molecule does not have.
    """
    try:
        atoms = molecule.select(selection)
        conditions = ast.parse(molecule.select_expression(selection))
    except Exception as error:  # MDTraj's selection parser raises many types
        raise MappingError(
            f"Selection '{selection}' is not valid MDTraj selection language."
        ) from error
    for node in ast.walk(conditions):
        if isinstance(node, ast.Compare):
            _check_comparison(node, molecule, selection)
    return atoms


def _check_comparison(node: ast.Compare, molecule: mdtraj.Topology, selection: str) -> None:
    if isinstance(node.ops[0], ast.Is | ast.IsNot):  # a regular expression: matches what it matches
        return
    sides = [node.left, *node.comparators]
    properties = [side for side in sides if isinstance(side, ast.Attribute)]
    constants = [c.value for s in sides for c in ast.walk(s) if isinstance(c, ast.Constant)]
    texts = [value for value in constants if isinstance(value, str)]
    if any(not isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
        if texts:
            raise MappingError(
                f"Selection '{selection}' compares names as text, in which C10 stands between C1"
                " and C2; write every name."
            )
        return
    for attribute in properties:
        has = {_value(atom, attribute) for atom in molecule.atoms}
        missing = [value for value in constants if value not in has]
        if missing:
            what = ast.unparse(attribute).removeprefix("atom.").replace(".", " ")
            raise MappingError(
                f"Selection '{selection}' asks for {what} {missing[0]!s}, which molecule"
                f" {molecule.residue(0).name} does not have (it has"
                f" {', '.join(sorted(str(value) for value in has))}); correct the name."
            )


def _value(atom: mdtraj.core.topology.Atom, attribute: ast.Attribute) -> object:
    """What ``atom.residue.name`` and the like are for an atom."""
    names = ast.unparse(attribute).split(".")[1:]
    value: object = atom
    for name in names:
        value = getattr(value, name, None)
    return value
