"""A mirror of a run's numbers at Weights & Biases, in addition to metrics.jsonl. Its failures stop no training.

wandb's environment variables decide where the numbers go: ``WANDB_PROJECT`` (default: ezm),
``WANDB_ENTITY``, ``WANDB_NAME`` (default: the run folder's), ``WANDB_MODE=offline``. The file
wandb.json in the run's folder keeps the run's identity, so that a resumed run goes on there too.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from ezm.errors import UserError
from ezm.runs.folder import RunFolder, write_atomically

_INIT_SECONDS = 30.0  # without an answer, after which the run is kept on disk
_FINISH_SECONDS = 120.0  # for sending the rest when the run ends


class WandbMirror:
    """Sends the numbers of one run to Weights & Biases."""

    def __init__(self, run: RunFolder, note: Callable[[str], None] = print) -> None:
        """Args:
            run: the run to send. wandb's own files go to its folder.
            note: shows a line at the terminal.

        Raises:
            UserError: wandb is not installed.
        """
        self._note = note
        self._folder = run.path / "wandb"
        self._session = self._begin(run)
        # An earlier part of the run has sent the same numbers already.
        self._next_step = 0 if self._session is None else int(self._session.step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Sends numbers by their names, measured at ``step`` environment steps per task."""
        if self._session is None or step < self._next_step:
            return
        try:
            self._session.log(dict(numbers), step=step)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._give_up(error)

    def close(self) -> None:
        """Waits until all is sent, for a limited time. A second call does nothing."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.finish()
        except Exception as error:  # noqa: BLE001 - the run itself is done
            self._give_up(error)

    def _begin(self, run: RunFolder) -> Any:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "Weights & Biases was asked for and wandb is not installed: "
                "pip install 'ezm-rl[wandb]', or leave the option out"
            ) from error
        try:
            # wandb's own lines would break the live page. Our lines say what matters.
            wandb.setup(wandb.Settings(silent=True))
            try:
                session = _init(wandb, run, os.environ.get("WANDB_MODE"))
            except Exception as error:  # noqa: BLE001 - no key, no network, no such project, ...
                self._note(
                    f"Weights & Biases takes nothing now ({_line(error)}): "
                    "the run is kept on disk for it, training goes on"
                )
                session = _init(wandb, run, "offline")
            identity = {
                "id": session.id,
                "project": session.project,
                "entity": session.entity or None,
            }
            write_atomically(run.path / "wandb.json", json.dumps(identity) + "\n")
        except Exception as error:  # noqa: BLE001 - training does without
            self._give_up(error)
            return None
        self._note(f"Weights & Biases: {session.url or f'offline; {self._how_to_send()}'}")
        return session

    def _give_up(self, error: Exception) -> None:
        self._session = None
        self._note(
            f"Weights & Biases failed ({_line(error)}): training goes on without it, "
            "metrics.jsonl has everything"
        )

    def _how_to_send(self) -> str:
        return f"send it by: wandb sync {self._folder}/offline-run-*"


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
