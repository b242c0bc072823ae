"""What an exported potential says about itself: ``metadata.json`` inside the TorchScript file."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from openmm_cgkd.config.run import ModelConfig
from openmm_cgkd.config.system import MOST_TYPES
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.utils.text_file import shown

from .archive import MEGABYTE, ArchiveError, check_shallow, read_archive
from .stored_prior import first_mistake, mistake_in_prior

FORMAT: Final = "openmm_cgkd potential"
VERSION, OLDEST = 4, 2
FILE_NAME, WEIGHTS = "metadata.json", "extra/weights.safetensors"
_LARGEST = 4 * MEGABYTE
_CURE = "export it again with 'cgkd export', or get the file again from where it came"
_LENGTH = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)? nanometer")
_UNITS = {
    "length": "nanometer",
    "energy": "kilojoule/mole",
    "mass": "dalton",
    "temperature": "kelvin",
}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("openmm_cgkd", "torch", "openmm", "openmmtorch", "torchmd-net"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def is_custom(network: dict[str, Any]) -> bool:
    """Whether a description of a network is of a user's own one, see `custom_network`."""
    return network.get("kind") == "custom"


def tensornet_settings(description: dict[str, Any], cutoff: float | None = None) -> ModelConfig:
    """Settings of a TensorNet in a file.

    Parameters
    ----------
    description : dict
        As ``ModelConfig.model_dump(mode="json")``.
    cutoff : float, nm, optional
        The cutoff with all its digits, of which the description holds ten.

    Raises
    ------
    ValueError
        If the settings are not valid, or the cutoff is another one.
    """
    text = description.get("cutoff")
    # units of other kinds could be made so that reading them takes hours
    if not isinstance(text, str) or not _LENGTH.fullmatch(text):
        raise ValueError(f"cutoff {shown(text)} is not a number of nanometers")
    settings = ModelConfig.model_validate(description, strict=True)
    if cutoff is None:
        return settings
    if not math.isclose(settings.cutoff, cutoff, rel_tol=1e-8):
        raise ValueError(f"the cutoff of the network, {settings.cutoff:g} nm, is not {cutoff:g} nm")
    return settings.model_copy(update={"cutoff": cutoff})


class PotentialMetadata(BaseModel):
    """Everything a user or `CGPotential` must know about a potential file.

    Attributes
    ----------
    kind : {"portable", "fast"}
        Plain PyTorch operations, or operators that ``import openmm_cgkd.operators`` registers.
    type_names : list of str
        Bead type names; the potential's ``types`` index them.
    masses : list of float, dalton
        Mass of a bead of each type.
    cutoff : float, nm
    prior : dict
        Parameters of the pair repulsion, as `PriorParameters`.
    network : dict
        Configuration of the network, as `ModelConfig`, and its energy scale in kJ/mol.
    system : str
        Name of the fluid it was trained on.
    temperature : float, kelvin
        Temperature of the all-atom frames; a coarse-grained potential is a free energy and holds
        there.
    training : dict
        Loss weights, targets, seeds, losses.
    frames_sha256, checkpoint_sha256 : str
        Identities of the training frames and of the student's checkpoint.
    content_sha256 : str
        Of the rest of the file and of these metadata, see `content_hash`; set when the file is
        written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["openmm_cgkd potential"] = FORMAT
    version: int = VERSION
    kind: Literal["portable", "fast"] = "portable"
    type_names: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        min_length=1, max_length=MOST_TYPES
    )
    masses: list[Annotated[float, Field(gt=0, le=1e9)]]
    cutoff: float = Field(ge=0.01, le=100)
    units: dict[str, str] = _UNITS
    prior: dict[str, Any]
    network: dict[str, Any]
    system: str = ""
    temperature: float | None = Field(None, gt=0, le=1e6)
    training: dict[str, Any] = {}
    frames_sha256: str | None = None
    checkpoint_sha256: str | None = None
    versions: dict[str, str] = Field(default_factory=_versions)
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    content_sha256: str = ""

    @property
    def custom_network(self) -> bool:
        """Whether the network is a user's own, which only the engine "portable" runs."""
        return is_custom(self.network)

    @field_validator("type_names")
    @classmethod
    def _names_differ(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError(f"got {shown(names)}; every bead type has a name of its own")
        return names

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(self.masses) != len(self.type_names):
            raise ValueError(
                f"masses {shown(self.masses)} do not fit bead types {shown(self.type_names)}"
            )
        if wrong := mistake_in_prior(self.prior):
            raise ValueError(f"prior: {wrong}")
        if list(self.prior["type_names"]) != self.type_names:
            raise ValueError(f"prior: its bead types are {shown(list(self.prior['type_names']))}")
        scale = self.network.get("scale", 1.0)
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"network: its scale is {shown(scale)}")
        if not self.custom_network:
            try:
                self.settings()
            except ValidationError as error:
                raise ValueError(f"network: {first_mistake(error)}") from error
            except ValueError as error:
                raise ValueError(f"network: {error}") from error
        return self

    def settings(self) -> ModelConfig:
        """Settings of the network, if it is no user's own."""
        # the scale is among the weights
        described = {name: value for name, value in self.network.items() if name != "scale"}
        return tensornet_settings(described, self.cutoff)


def content_hash(records: Mapping[str, bytes], data: dict[str, Any]) -> str:
    """SHA-256 of everything in a potential file but the hash itself.

    Parameters
    ----------
    records : dict of bytes
        Content of the archive by name, without the folder that all names begin with;
        ``metadata.json`` is left out.
    data : dict
        The metadata; ``content_sha256`` is left out.
    """
    digest = hashlib.sha256()
    for name in sorted(records.keys() - {f"extra/{FILE_NAME}"}):
        digest.update(f"{name} {len(records[name])}\n".encode() + records[name])
    digest.update(
        json.dumps(
            {key: value for key, value in data.items() if key != "content_sha256"}, sort_keys=True
        ).encode()
    )
    return digest.hexdigest()


def read_metadata(path: Path | str) -> PotentialMetadata:
    """Read the metadata of an exported potential, without loading the potential.

    Raises
    ------
    ModelFileError
        If the file is missing, not TorchScript, TorchScript from elsewhere, of another format
        version, not physical, or was changed after it was written.
    """
    return read_members(path)[0]


def read_members(path: Path | str) -> tuple[PotentialMetadata, dict[str, bytes]]:
    """Metadata and all members of an exported potential; nothing of it is run.

    Raises
    ------
    ModelFileError
        As `read_metadata`.
    """
    path = Path(path)
    try:
        records = read_archive(path, "a potential that 'cgkd export' has written")
    except ArchiveError as error:
        raise ModelFileError(
            f"{path}: is not a TorchScript file that can be read: it {error}; {_CURE}."
        ) from error
    if not any(name.startswith("code/") for name in records):
        raise ModelFileError(
            f"{path}: is not a TorchScript file (a training checkpoint?); export a potential with"
            " 'cgkd export'."
        )
    data = _parsed(path, records.get(f"extra/{FILE_NAME}", b"{}"))
    if data.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: is TorchScript but not a potential of this package; export one with 'cgkd"
            " export'."
        )
    found = data.get("version")
    if not isinstance(found, int) or found > VERSION:
        raise ModelFileError(
            f"{path}: has format version {shown(found)}, this package reads {OLDEST} to {VERSION};"
            " upgrade openmm_cgkd."
        )
    if found < OLDEST:
        raise ModelFileError(
            f"{path}: has format version {found}, this package reads {OLDEST} to {VERSION}; export"
            " it again with 'cgkd export'."
        )
    if content_hash(records, data) != data.get("content_sha256"):
        raise ModelFileError(
            f"{path}: its content does not fit the SHA-256 in its {FILE_NAME}, so it was changed"
            f" after the export; {_CURE}."
        )
    try:
        return PotentialMetadata.model_validate(data), records
    except ValidationError as error:
        raise ModelFileError(
            f"{path}: field {first_mistake(error)}, in its {FILE_NAME}; {_CURE}."
        ) from error


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    try:
        if len(text) > _LARGEST:
            raise ArchiveError(f"is larger than {_LARGEST // MEGABYTE} MB")
        data = json.loads(text)
        check_shallow(data)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ArchiveError) else "is damaged"
        raise ModelFileError(
            f"{path}: its {FILE_NAME} cannot be read: it {reason}; {_CURE}."
        ) from error
    return data if isinstance(data, dict) else {}
