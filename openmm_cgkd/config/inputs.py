"""The files that a run.yaml names, looked for before anything slow begins."""

from __future__ import annotations

from collections.abc import Iterable

from openmm_cgkd.exceptions import ConfigError

from .run import RunConfig

# not system: a run with frames needs none
_CURES = {
    "frames": "make mapped frames with 'cgkd reference' or 'cgkd map'; 'cgkd run' makes them if the"
    " field is left out",
    "second_frames": "make a second all-atom run with 'cgkd reference --independent-of', or leave"
    " the field out",
    "potential": "export one with 'cgkd export', or leave the field out to train one",
    "mean_forces": "make them with 'cgkd meanforce', or leave the field out",
}


def check_inputs(run: RunConfig, names: Iterable[str] = (*_CURES, "student")) -> None:
    """Refuse a file that is not there.

    Parameters
    ----------
    run : RunConfig
    names : iterable of str
        Fields of the run that are read; those that name no input do not matter.

    Raises
    ------
    ConfigError
        Naming the field, the path and the cure.
    """
    for name in names:
        file = getattr(run, name) if name in _CURES else None
        if file is not None and not (path := run.path(file)).exists():
            raise ConfigError(f"{name}: {path}: no such file; {_CURES[name]}.")
        for file in run.student.extra.trajectories if name == "student" else []:
            if not (path := run.path(file)).exists():
                raise ConfigError(
                    f"student.extra.trajectories: {path}: no such file; simulate with a student or"
                    " a teacher, or leave it out."
                )
