"""`cgkd`: the command line."""

from __future__ import annotations

import sys

from openmm_cgkd.utils.signals import StopRequest, end_silently, handle_stop_requests


def main() -> None:
    """Entry point of the console script."""
    handle_stop_requests()
    try:
        # here, because a signal during these imports shall leave no traceback either
        from .commands import app

        app()
    except StopRequest as stop:
        sys.stderr.write("interrupted before the work began\n")
        sys.exit(128 + stop.number)
    finally:
        end_silently()  # what Python does at its end, too, can be interrupted
