"""Independent all-atom runs of one fluid: each is packed anew, all have the box of the first."""

from __future__ import annotations

from pathlib import Path

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.utils.seeds import derived_seed

from .run import run_reference


def run_folder_of(folder: Path, number: int) -> Path:
    """Folder of one of several independent runs; the first one has the folder itself."""
    return folder if number == 1 else folder / f"run_{number}"


def with_other_seed(config: SystemConfig, number: int) -> SystemConfig:
    """The configuration of one of several independent runs: the seed differs."""
    seed = config.reference.seed
    if number > 1:
        seed = derived_seed(seed, "independent run", number)
    reference = config.reference.model_copy(update={"seed": seed})
    return config.model_copy(update={"reference": reference})


def run_independent(config: SystemConfig, folder: Path, start: Path | None = None) -> list[Path]:
    """Run all atoms ``reference.runs`` times and return the paths of the mapped frames.

    One run cannot tell how far a long-lived arrangement of its molecules is off; a second one, from
    another packing, can. A second call with the same folder continues where the first stopped.

    Parameters
    ----------
    config : SystemConfig
    folder : path
        Of the first run; ``run_2`` and so on in it are those of the others.
    start : path, optional
        For the first run, see `run_reference`.

    Raises
    ------
    ConfigError, SimulationError
        As `run_reference`.
    """
    first = run_reference(config, folder, start)
    others = [
        run_reference(
            with_other_seed(config, number), run_folder_of(folder, number), independent_of=first
        )
        for number in range(2, config.reference.runs + 1)
    ]
    return [first, *others]
