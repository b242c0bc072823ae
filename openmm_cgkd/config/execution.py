"""The section that says where independent tasks run: on this machine, through Parsl, on Slurm."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from .section import Section


class SlurmConfig(Section):
    """Jobs that Parsl asks Slurm for; each takes a node and runs one task per worker at a time."""

    partition: str | None = None
    account: str | None = None
    walltime: str = Field(
        "24:00:00", pattern=r"^\d+:\d\d:\d\d$", description="of one job, hours:minutes:seconds"
    )
    jobs: int = Field(1, gt=0, le=100_000, description="jobs at a time, at most")
    cores: int | None = Field(
        None, gt=0, le=4096, description="cores of the node; the whole node if absent"
    )
    options: list[str] = Field(
        [], description="further options of sbatch, such as --gpus-per-node=4"
    )
    setup: list[str] = Field(
        [], description="shell commands before the work, such as module load cuda"
    )


class ExecutionConfig(Section):
    """Where independent tasks run, such as the training of teachers."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    backend: Literal["local", "parsl"] = Field(
        "local", description="processes on this machine, or Parsl's HighThroughputExecutor"
    )
    retries: int = Field(
        1, ge=0, le=1000, description="times that a failed or killed task is tried again"
    )
    accelerators: list[str] = Field(
        [], description="parsl: GPUs of a node, one for each worker (CUDA_VISIBLE_DEVICES)"
    )
    slurm: SlurmConfig | None = Field(
        None, description="parsl: ask Slurm for nodes; this machine if absent"
    )

    @model_validator(mode="after")
    def _needs_parsl(self) -> Self:
        if self.backend == "local" and (self.accelerators or self.slurm):
            raise ValueError(
                "accelerators and slurm are for backend parsl, got backend local; set backend:"
                " parsl or remove them"
            )
        return self
