"""Compare trajectories of beads with all-atom and write what was found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from openmm_cgkd.config.run import ComparisonConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.records import write_record

from .figures import write_pictures
from .models import Comparison, compare_models, report
from .sources import Source, joined_source, read_source, source_of_frames
from .tables import write_tables

AnySource = Source | Frames | Path | str


def compare(
    all_atom: AnySource | Sequence[AnySource],
    models: AnySource | Sequence[AnySource],
    folder: Path | str | None = None,
    settings: ComparisonConfig | None = None,
) -> Comparison:
    """Compare the structure and dynamics of coarse-grained trajectories with all-atom.

    Parameters
    ----------
    all_atom : Frames, Source or path, or a sequence of them
        A path may be whatever `read_source` takes. Several are independent runs of the same fluid
        in boxes of the same volume; from two on, the error of a model is told without noise.
    models : Source, Frames or path, or a sequence of them
        Sources of one label are independent trainings of one model.
    folder : path, optional
        Gets ``comparison.json``, CSV files of curves and errors, and pictures.
    settings : ComparisonConfig, optional

    Returns
    -------
    Comparison
        Its ``results`` hold a `CurveComparison` per observable and pair of bead types:
        ``comparison.results[0].of_kind("rdf")``.

    Raises
    ------
    AnalysisError
        As `compare_models` and `read_source`.
    FramesError
        If a file of mapped frames is not valid.
    """
    runs, given = _listed(all_atom), _listed(models)
    with nullcontext() if folder is None else locked(folder):
        reference = joined_source([_source(run, "AA") for run in runs])
        comparison = compare_models(
            reference, [_source(model) for model in given], settings or ComparisonConfig()
        )
        if folder is not None:
            _write(comparison, reference, Path(folder))
    return comparison


def _listed(given: AnySource | Sequence[AnySource]) -> list[AnySource]:
    return [given] if isinstance(given, Source | Frames | Path | str) else list(given)


def _source(given: AnySource, label: str = "") -> Source:
    if isinstance(given, Source):
        return given
    if isinstance(given, Frames):
        return source_of_frames(given, Path("frames"), label or "frames")
    return read_source(given, label)


def _write(comparison: Comparison, all_atom: Source, folder: Path) -> None:
    numbers = (
        state_of(all_atom.attributes)
        | {"settings": comparison.settings.model_dump(mode="json"), "r_max": comparison.r_max}
        | report(comparison)
    )
    numbers["tables"] = write_tables(comparison, folder)
    write_record(folder / "comparison.json", numbers, allow_nan=False)
    write_pictures(comparison, folder, title_of(all_atom.attributes))


def state_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Fluid and temperature of a source, as far as they are known."""
    return {
        "system": attributes.get("system", "unnamed system"),
        "temperature": attributes.get("temperature"),
    }


def title_of(attributes: dict[str, Any]) -> str:
    """Title of the pictures: fluid and temperature."""
    state = state_of(attributes)
    return (
        state["system"]
        if state["temperature"] is None
        else f"{state['system']} at {state['temperature']:g} K"
    )
