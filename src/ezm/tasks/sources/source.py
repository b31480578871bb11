"""The entry of a source of tasks in the registry: all that the rest of ezm asks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

from ezm.errors import UserError
from ezm.tasks.simulator import Simulator, Stepper


class Score(NamedTuple):
    """The scale of a task's undiscounted returns."""

    zero: float
    """The return that is normalised to 0."""
    one: float
    """The return that is normalised to 1."""
    bar: float | None = None
    """The return from which an episode counts as solved, None without such a bar."""


def _no_names() -> Sequence[str]:
    return ()


def _every_step(name: str) -> int:
    return 1


@dataclass(frozen=True)
class Source:
    """A source of tasks. Where a function takes a name, it is a task's name without the prefix and without options.

    An entry is made when ezm starts, so it imports no library before a task needs it.
    """

    title: str
    """Name of the library, for messages."""
    form: str
    """How its tasks are written, e.g. ``gym:Id``."""
    make: Callable[[str, int, bool], Simulator]
    """Makes an environment from the name with its options, a seed of at least 0, and whether it will be drawn."""
    names: Callable[[], Sequence[str]] = _no_names
    """Names of all its tasks, none where there is no end to them. It is called only where nothing is lacking."""
    action_repeat: Callable[[str], int] = _every_step
    """Simulator steps for each agent step, for a user who sets no other number."""
    options: tuple[str, ...] = ()
    """Options of ezm, ``protocol`` or ``meshes``, that a name may end in: ``h1-walk?protocol=paper&meshes=DIR``."""
    stepper: Callable[[Sequence[Simulator], int], Stepper] | None = None
    """Makes a stepper of several of its simulators with some threads. None: each steps alone."""
    made_in_threads: bool = False
    """Whether making an environment consists mostly of long calls that let other Python threads run."""
    score: Callable[[str], Score] | None = None
    """The score of a task, None where returns have no scale."""
    needs: tuple[str, ...] = ()
    """Modules that its tasks import and that ezm can do without."""
    install: str = ""
    """The command that installs them."""

    def lack(self) -> str | None:
        """Returns why its tasks cannot be built, or None where they can. Imports nothing."""
        missing = (module for module in self.needs if find_spec(module) is None)
        return next((f"{module} is not installed" for module in missing), None)

    def require(self, what: str) -> None:
        """Refuses the task or suite ``what`` where the tasks cannot be built.

        Raises:
            UserError: a module is not installed.
        """
        if lack := self.lack():
            raise UserError(f"{what}: {lack}; run: {self.install}")
