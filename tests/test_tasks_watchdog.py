"""An environment that hangs ends the process with a line; a slow one does not."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ezm
from ezm.errors import UserError
from ezm.tasks import ParallelTasks, Suite, load_suite
from ezm.tasks.watchdog import HANG_EXIT_CODE

FACTORY = """
import time, gymnasium, numpy as np
from gymnasium import spaces

class Waits(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))
    resets = steps = 0
    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.wait("reset", self.resets)
        return np.zeros(1), {}
    def step(self, action):
        self.steps += 1
        self.wait("step", self.steps)
        return np.zeros(1), 0.0, self.steps % 2 == 0, False, {}
    def wait(self, what, number):
        pass

class Sleeps(Waits):
    def wait(self, what, number):
        if (what, number) == ("step", 3):
            time.sleep(1e6)

class Spins(Waits):
    def wait(self, what, number):
        while (what, number) == ("step", 3):
            pass

class SleepsInReset(Waits):
    def wait(self, what, number):
        if (what, number) == ("reset", 2):
            time.sleep(1e6)

class Late(Waits):
    def wait(self, what, number):
        if (what, number) == ("step", 3):
            time.sleep(2.5)

class Slow(Waits):
    def wait(self, what, number):
        time.sleep(0.2)
"""
RUN = """
import sys, time, numpy as np
from ezm.tasks import ParallelTasks, load_suite

def on_hang():
    print("called back")
    CALLBACK

suite = load_suite("gym:Pendulum-v1," + sys.argv[1])
threads, copies = map(int, sys.argv[2:])
parallel = ParallelTasks(suite, 0, copies, threads=threads, step_limit=1.0, on_hang=on_hang)
parallel.reset()
if sys.argv[1].startswith("hb:"):
    parallel.tasks[1].simulator.environment.advance = lambda control: time.sleep(1e6)
for _ in range(5):
    parallel.step(np.zeros((len(parallel.tasks), suite.action_size)))
print("ended")
"""


def run(
    folder: Path,
    task: str,
    threads: int = 1,
    callback: str = "pass",
    copies: int = 1,
    program: str = RUN,
) -> subprocess.CompletedProcess[str]:
    (folder / "own_waits.py").write_text(FACTORY)
    return subprocess.run(
        [
            *(sys.executable, "-c", program.replace("CALLBACK", callback)),
            *(task, str(threads), str(copies)),
        ],
        env=os.environ | {"PYTHONPATH": str(Path(ezm.__file__).parents[1])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("name", "threads"), [("Sleeps", 1), ("Sleeps", 2), ("Spins", 1), ("SleepsInReset", 1)]
)
def test_a_hanging_environment_ends_the_process(tmp_path: Path, name: str, threads: int) -> None:
    ended = run(tmp_path, f"own_waits:{name}", threads)
    assert ended.returncode == HANG_EXIT_CODE == 3
    assert ended.stderr == (
        f"error: task own_waits:{name}: the environment hangs, a step or reset has taken more than "
        "1 s; mend it, or train with a higher --step-limit\n"
    )
    assert ended.stdout == "called back\n"


@pytest.mark.parametrize("threads", [1, 2])
def test_humanoids_that_are_stepped_together_are_named_together(
    tmp_path: Path, threads: int
) -> None:
    ended = run(tmp_path, "hb:h1-walk,h1-stand", threads)
    assert ended.returncode == HANG_EXIT_CODE
    assert ended.stderr.startswith("error: task h1-walk, h1-stand: the environment hangs")


def test_a_failing_callback_does_not_keep_the_process(tmp_path: Path) -> None:
    ended = run(tmp_path, "own_waits:Sleeps", callback="raise OSError('disk full')")
    assert ended.returncode == HANG_EXIT_CODE
    lines = ended.stderr.splitlines()
    assert "hangs" in lines[0] and lines[-1] == "OSError: disk full"


def test_nothing_goes_on_while_the_callback_saves(tmp_path: Path) -> None:
    """An environment that comes back in the meantime changes nothing that is being saved."""
    ended = run(tmp_path, "own_waits:Late", callback="time.sleep(4); print('saved')")
    assert ended.returncode == HANG_EXIT_CODE
    assert ended.stdout == "called back\nsaved\n"


def test_a_slow_environment_is_waited_for(tmp_path: Path) -> None:
    """Its steps are within the limit, though not all of them together."""
    ended = run(tmp_path, "own_waits:Slow")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")


def test_many_slow_environments_are_waited_for(tmp_path: Path) -> None:
    """A step of all takes longer than the limit, and no environment does."""
    ended = run(tmp_path, "own_waits:Slow", copies=7)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")


ALONE = """
import sys, numpy as np
from ezm.tasks import load_suite
from ezm.tasks.watchdog import guarded

suite = load_suite(sys.argv[1])
tasks = [suite.make(0, seed) for seed in (0, 1)]
with guarded(tasks, 1.0, lambda: print("called back")):
    for task in tasks:
        task.reset()
        for _ in range(5):
            task.step(np.zeros(1))
            if task.simulator.environment.unwrapped.steps % 2 == 0:
                task.reset()
print("ended")
"""


@pytest.mark.parametrize("name", ["Sleeps", "SleepsInReset"])
def test_environments_without_others_are_watched_too(tmp_path: Path, name: str) -> None:
    ended = run(tmp_path, f"own_waits:{name}", program=ALONE)
    assert (ended.returncode, ended.stdout) == (HANG_EXIT_CODE, "called back\n")
    assert ended.stderr.startswith(f"error: task own_waits:{name}: the environment hangs")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("gym:Pendulum-v1")


def watching() -> int:
    return sum(thread.name == "ezm-watchdog" for thread in threading.enumerate())


def test_nothing_watches_without_a_limit_or_after_closing(suite: Suite) -> None:
    before = watching()
    ParallelTasks(suite, seed=0).reset()
    assert watching() == before
    parallel = ParallelTasks(suite, seed=0, step_limit=0.1)
    assert watching() == before + 1
    parallel.close()
    deadline = time.monotonic() + 10
    while watching() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watching() == before


def test_time_between_steps_does_not_count(suite: Suite) -> None:
    """Or this process would end here."""
    parallel = ParallelTasks(suite, seed=0, step_limit=1.0)
    parallel.reset()
    time.sleep(1.5)
    parallel.close()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_limits_have_to_be_above_zero(suite: Suite, limit: float) -> None:
    with pytest.raises(UserError, match=f"--step-limit {limit:g}: must be above 0 seconds"):
        ParallelTasks(suite, seed=0, step_limit=limit)
