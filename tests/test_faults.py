"""What can go wrong in a run, for real: each ends it with one line and an exit code, and nothing learned is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from ezm.runs.folder import RunFolder

# Trouble comes at one step of an environment, counted over its episodes: at step 53, training gets there first.
ENVIRONMENT = """
import os
import time
import gymnasium
import numpy as np


class Troubled(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    reward_range = (0.0, 1.0)

    def __init__(self):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = self.np_random.normal(size=2).astype(np.float32)
        if self.steps == int(os.environ.get("AT", 53)):
            trouble = os.environ.get("TROUBLE")
            if trouble == "raise":
                raise ConnectionError("the robot is gone")
            if trouble == "nan":
                observation[1] = np.nan
            if trouble == "hang":
                time.sleep(1e6)
        return observation, float(action[0] > 0), False, False, {}


def make():
    return gymnasium.wrappers.TimeLimit(Troubled(), 10)
"""
OPTIONS = (
    "--steps=80 --random-steps=20 --evaluate-every=100 --evaluation-episodes=1 --final-episodes=1 "
    "--checkpoint-every=25 --updates-per-step=0.5 --model.latent-size=8 --model.projector-size=8 "
    "--model.bins=5 --model.task-embedding-size=4 --model.action-code-size=4 "
    "--planner.simulations=2 --planner.root-actions=4 --planner.policy-actions=2 "
    "--optimizer.batch-size=4 --step-limit=4"
)
Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the environment's module is, and the cache of compiled programs."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "troubled.py").write_text(ENVIRONMENT)
    return folder


@pytest.fixture(scope="module")
def train(folder: Path) -> Train:
    """``ezm train``, or another command, in a process of its own."""

    def run(
        *arguments: str, command: str = "train", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "EZM_CACHE": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **variables,
        }
        line = [sys.executable, "-m", "ezm", command, *arguments]
        return subprocess.run(
            line, env=environment, cwd=folder, text=True, capture_output=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def finished(train: Train, folder: Path) -> tuple[Path, str]:
    """The folder of a run without trouble, and what the run said on standard error."""
    done = train("troubled:make", *OPTIONS.split(), "--out", str(folder / "finished"))
    assert done.returncode == 0, done.stderr
    return folder / "finished", done.stderr


def begin(train: Train, run: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and last line of a run that is to fail."""
    done = train("troubled:make", *OPTIONS.split(), "--out", str(run), *arguments, **variables)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def goes_on_from(run: Path, step: int, train: Train) -> None:
    """The run's last checkpoint is of that step, and the run can be finished."""
    assert RunFolder.open(run).checkpoint_steps()[-1] == step
    done = train("--resume", str(run))
    assert done.returncode == 0, done.stderr
    assert RunFolder.open(run).checkpoint_steps()[-1] == 80


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (
            "raise",
            "error: task troubled:make, step 3 of the episode: the environment (troubled:make) raised "
            "ConnectionError: the robot is gone; mend it",
        ),
        (
            "nan",
            "error: task troubled:make, step 3 of the episode: the environment (troubled:make) returned "
            "nan as observation number 1; mend it",
        ),
    ],
)
def test_an_environment_that_fails(trouble: str, says: str, train: Train, tmp_path: Path) -> None:
    """All 52 steps before are kept, though the last regular checkpoint was at 50."""
    assert begin(train, tmp_path / "run", TROUBLE=trouble) == (2, says)
    goes_on_from(tmp_path / "run", 52, train)


HANGS = (
    "error: task troubled:make: the environment hangs, a step or reset has taken more than 4 s; "
    "mend it, or train with a higher --step-limit"
)


def test_an_environment_that_hangs(train: Train, tmp_path: Path) -> None:
    assert begin(train, tmp_path / "run", TROUBLE="hang") == (3, HANGS)
    goes_on_from(tmp_path / "run", 52, train)


def test_an_environment_that_hangs_in_an_evaluation(
    train: Train, finished: tuple[Path, str], tmp_path: Path
) -> None:
    """In training's first evaluation, before anything is learned, and in ``ezm eval``."""
    assert begin(train, tmp_path / "hung", TROUBLE="hang", AT="3") == (3, HANGS)
    done = train(str(finished[0]), command="eval", TROUBLE="hang", AT="3")
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (3, HANGS)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("JAX_PLATFORMS", "foo", "Unable to initialize backend 'foo'"),
        ("JAX_NUM_CPU_DEVICES", "many", 'Invalid value "many"'),
        ("JAX_DEBUG_NANS", "1", "a training fails"),
        ("JAX_TRANSFER_GUARD", "disallow", "a training fails"),
        ("XLA_FLAGS", "--no_such_flag", "Unknown flag in XLA_FLAGS: --no_such_flag"),
    ],
)
def test_a_setting_that_breaks_a_training(
    name: str, value: str, says: str, train: Train, tmp_path: Path
) -> None:
    done = train("troubled:make", "--out", str(tmp_path / "run"), **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {name}={value}: ") and says in line
    assert line.endswith(f"unset {name}")
    assert not (tmp_path / "run").exists()


def test_settings_that_would_change_the_programs(
    train: Train, finished: tuple[Path, str], tmp_path: Path
) -> None:
    """A training names them, and gives the same numbers as without them."""
    settings = {
        "JAX_ENABLE_X64": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
    }
    other, found = tmp_path / "run", []
    done = train("troubled:make", *OPTIONS.split(), "--out", str(other), **settings)
    assert done.returncode == 0, done.stderr
    for run, told, given in ((*finished, {}), (other, done.stderr, settings)):
        said = [line for line in told.splitlines() if "has no effect" in line]
        assert [line.split(" has")[0] for line in said] == [f"{k}={v}" for k, v in given.items()]
        checkpoint = RunFolder.open(run).latest_checkpoint()
        assert checkpoint is not None
        found.append(checkpoint.arrays["agent"])
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_learner_that_diverges(train: Train, tmp_path: Path) -> None:
    """The agent before the update is kept, and the batch of the update to look at."""
    run = tmp_path / "run"
    code, line = begin(train, run, "--loss.reward-weight=3e38", "--loss.value-weight=3e38")
    assert code == 4
    assert line.startswith("error: update 0 gave the loss inf")
    assert "the agent before it is kept at step 2" in line
    checkpoint = RunFolder.open(run).latest_checkpoint()
    assert checkpoint is not None
    for leaf in jax.tree.leaves(checkpoint.arrays["agent"]):
        assert np.isfinite(leaf).all()
    batch = np.load(run / "diverged.npz")
    assert batch["batch.observation"].shape == (9, 4, 2)
    figures = [batch["figures.loss/total"], batch["figures.gradient_norm"]]
    assert not np.isfinite(figures).all()


def test_a_full_disk(train: Train, tmp_path: Path, folder: Path) -> None:
    """No file may grow beyond some kB: the first checkpoint cannot be written, and the run says so."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from ezm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = tmp_path / "run"
    environment = {
        **os.environ,
        "EZM_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [
        "train",
        "troubled:make",
        *OPTIONS.split(),
        "--out",
        str(run),
        "--replay.capacity=60000",
    ]
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments, "--model.latent-size=64"],
        env=environment,
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    # Threads of the writing library may report too.
    assert "error: cannot write checkpoint" in done.stderr
