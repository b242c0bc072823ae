"""Errors and Ctrl-C inside the operators, which are written in Python and called by TorchForce.

No exception may leave such an operator: it ends the process with a segmentation fault. So an error
becomes NaN and a message, which TorchScript raises; and Ctrl-C, which Python turns into an
exception wherever it happens to be, waits until OpenMM is back.
"""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

import torch
from torch import Tensor

from openmm_cgkd.utils.signals import raise_outside_openmm

logger = logging.getLogger(__name__)

_latest = threading.local()


def last_error(energy: Tensor) -> str:
    """Why this thread's last operator gave NaN; empty without a failure, and if asked again."""
    message, _latest.message = getattr(_latest, "message", ""), ""
    return message


def nan_on_error(
    function: Callable[..., tuple[Tensor, Tensor]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Decorator for an operator: energy and gradient are NaN in place of any exception.

    The gradient has the shape of the operator's first argument.
    """

    @functools.wraps(function)
    def operator(positions: Tensor, *arguments: Tensor | list | None) -> tuple[Tensor, Tensor]:
        # notebooks set it again for every cell
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            _defer_interrupts()
        try:
            return function(positions, *arguments)
        except Exception as error:
            logger.debug("operator failed", exc_info=True)
            _latest.message = (
                str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}"
            )
            nothing = torch.full_like(positions, torch.nan, dtype=torch.float64)
            return nothing.sum(), nothing

    return operator


def _defer_interrupts() -> None:
    # elsewhere Python neither handles signals nor lets us say how
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handler of Ctrl-C as Python's own, but for the operators."""
    raise_outside_openmm(KeyboardInterrupt(), frame)
