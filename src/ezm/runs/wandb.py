"""A mirror of a run's numbers at Weights & Biases, in addition to metrics.jsonl. Its failures stop no training.

wandb's environment variables decide where the numbers go: ``WANDB_PROJECT`` (default: ezm),
``WANDB_ENTITY``, ``WANDB_NAME`` (default: the run folder's), ``WANDB_MODE=offline``. The file
wandb.json in the run's folder keeps the run's identity, so that a resumed run goes on there too.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from ezm.errors import UserError
from ezm.runs.folder import RunFolder, write_atomically

_log = logging.getLogger(__name__)
_INIT_SECONDS = 30.0  # without an answer, after which the run is kept on disk
_FINISH_SECONDS = 120.0  # for sending the rest when the run ends


class WandbMirror:
    """Sends the numbers of one run to Weights & Biases."""

    def __init__(self, run: RunFolder) -> None:
        """Args:
            run: the run to send. wandb's own files go to its folder.

        Raises:
            UserError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "Weights & Biases was asked for and wandb is not installed: "
                "pip install 'ezm-rl[wandb]', or leave the option out"
            ) from error
        self._session: Any = None
        self._session = self._attempt(lambda: self._begin(wandb, run))
        # An earlier part of the run has sent the same numbers already.
        self._next_step = 0 if self._session is None else int(self._session.step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends numbers by their names, measured at ``step`` environment steps per task."""
        if self._session is not None and step >= self._next_step:
            self._attempt(lambda: self._session.log(dict(numbers), step=step))

    def close(self) -> None:
        """Waits until all is sent, for a limited time. A second call does nothing."""
        session, self._session = self._session, None
        if session is not None:
            self._attempt(session.finish)

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """Calls a function of wandb's. Whatever fails there, training goes on, without wandb."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001
            self._session = None
            _log.warning(
                f"Weights & Biases failed ({_line(error)}): training goes on without it, "
                "metrics.jsonl has everything"
            )
            return None

    def _begin(self, wandb: Any, run: RunFolder) -> Any:
        # wandb's own lines would break the live page. Our lines say what matters.
        wandb.setup(wandb.Settings(silent=True))
        try:
            session = _init(wandb, run, os.environ.get("WANDB_MODE"))
        except Exception as error:  # noqa: BLE001 - no key, no network, no such project, ...
            _log.warning(
                f"Weights & Biases takes nothing now ({_line(error)}): "
                "the run is kept on disk for it, training goes on"
            )
            session = _init(wandb, run, "offline")
        identity = {"id": session.id, "project": session.project, "entity": session.entity or None}
        write_atomically(run.path / "wandb.json", json.dumps(identity) + "\n")
        offline = f"offline; send it by: wandb sync {run.path}/wandb/offline-run-*"
        _log.warning(f"Weights & Biases: {session.url or offline}")
        return session


def _init(wandb: Any, run: RunFolder, mode: str | None) -> Any:
    """Returns wandb's session, for the run that wandb.json names or for a new run."""
    environment, file = os.environ.get, run.path / "wandb.json"
    identity = (
        json.loads(file.read_text(encoding="utf-8"))
        if file.exists()
        else {
            "id": environment("WANDB_RUN_ID") or secrets.token_hex(4),
            "project": environment("WANDB_PROJECT") or "ezm",
            "entity": environment("WANDB_ENTITY"),
        }
    )
    return wandb.init(
        **identity,
        name=environment("WANDB_NAME") or run.path.name,
        resume="allow",
        dir=str(run.path),
        config=run.config,
        mode=mode,
        # No console capture: it would record the live page, over and over.
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS
        ),
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
