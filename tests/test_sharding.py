"""One device or several: the same learner. Eight devices of the CPU need a process whose JAX was told of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_learner import CONFIG, SUITE, experience

import ezm.cli
import ezm.platform
from ezm.agent.batch import BATCH_AXIS, WHOLE
from ezm.agent.learning import sharding
from ezm.agent.learning.losses import TARGET_AXIS
from ezm.config import QConfig, TrainConfig, to_dict
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.training import session
from ezm.training.pipeline import Pipeline

UPDATES, DEVICES = 5, (1, 2, 8)
# Rounding to bfloat16 would make a last digit of float32 a hundredth.
SMALL = replace(
    CONFIG,
    precision="float32",
    model=replace(CONFIG.model, latent_size=16, bins=21, blocks=0),
    loss=replace(CONFIG.loss, unroll=2),
)
# 12 of 48 states are no equal parts for 8 devices; 192 states are searched in parts (of 96).
CASES = {16: 0.25, 64: 1.0}
"""Batch size and the share of its states that are searched anew."""
CHANGED = "2 then 8"
ON_DEVICE = "2, rows on the first"
TOLERANCE, TOLERANCE_OF_WEIGHTS = 1e-5, 5e-4
"""Absolute, of float32 numbers of order 1: sums over the batch are taken in another order. 1.5e-6 was measured, and
5e-5 of the policy's targets, a softmax of what is a ten-thousandth large at first."""


def config(batch_size: int, devices: int) -> TrainConfig:
    return replace(
        SMALL,
        devices=devices,
        loss=replace(SMALL.loss, reanalyze_ratio=CASES[batch_size]),
        optimizer=replace(SMALL.optimizer, batch_size=batch_size),
    )


# -- what the process with eight devices does --------------------------------------------


class Run:
    """A learner and its replay, which records what comes back to it."""

    def __init__(self, settings: TrainConfig):
        self.agent, self.replay = experience(settings)
        self.reanalysed: list[Any] = []
        self.priorities: list[np.ndarray] = []
        store, update_priorities = self.replay.store, self.replay.update_priorities

        def recorded_store(task: Any, row: Any, searches: Any, updates: int) -> None:
            self.reanalysed.append(jax.tree.map(np.asarray, searches))
            store(task, row, searches, updates)

        def recorded_priorities(drawn: Any, priority: np.ndarray) -> None:
            self.priorities.append(priority)
            update_priorities(drawn, priority)

        self.replay.store = recorded_store  # type: ignore[method-assign]
        self.replay.update_priorities = recorded_priorities  # type: ignore[method-assign]
        self.rng = np.random.default_rng(1)
        self.normalizer = self.agent.statistics.normalizer()
        self.open()

    def open(self) -> None:
        self.pipeline = Pipeline(self.agent.learner, self.agent.state, self.replay, self.rng)

    def update(self, times: int, *, compiled: bool) -> None:
        if compiled:
            self.pipeline.compile(self.normalizer)
            assert self.pipeline.working_memory() > 0  # bytes
        for _ in range(times):
            self.pipeline.step(self.normalizer)
        self.agent.state = self.pipeline.state

    def found(self) -> dict[str, np.ndarray]:
        self.pipeline.close()
        state = self.agent.arrays()["learner"]
        reanalysed = jax.tree.map(lambda *x: np.stack(x), *self.reanalysed)._asdict()
        return {
            **{f"state {name}": x for name, x in state.items()},
            **{f"reanalysed {name}": x for name, x in reanalysed.items()},
            "priorities": np.stack(self.priorities),
        }


def assert_in_parts(pipeline: Pipeline, devices: int) -> None:
    """Each device holds 1/N of the batch and of its targets, and all parameters; others see one device."""
    assert pipeline._next is not None
    batch, targets = pipeline._next.batch, pipeline._next.targets.result()
    for x, axis in ((batch.observation, 1), (batch.length, 0), (targets.policy.mean, 1)):
        shards = x.addressable_shards
        assert len({shard.device for shard in shards}) == len(shards) == devices
        expected = list(x.shape)
        expected[axis] //= devices
        assert all(list(shard.data.shape) == expected for shard in shards)
    for x in [*pipeline._optimizer, *pipeline._rest]:
        assert [shard.data.shape for shard in x.addressable_shards] == [x.shape] * devices
    assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(pipeline.state))


def changed() -> dict[str, np.ndarray]:
    """Begun with 2 devices, gone on with 8 from what a checkpoint holds."""
    run = Run(config(16, 2))
    run.update(2, compiled=False)
    pending, saved = run.pipeline.pending(), run.agent.arrays()
    run.pipeline.close()
    learner = replace(run.agent.learner, config=config(16, 8))
    run.agent = replace(run.agent, learner=learner)
    run.agent.load(saved)
    run.open()
    run.pipeline.resume(pending, run.normalizer)
    run.update(UPDATES - 2, compiled=True)
    return run.found()


def main(folder: Path) -> None:
    for batch_size in CASES:
        for devices in DEVICES:
            run = Run(config(batch_size, devices))
            run.update(UPDATES, compiled=True)
            if devices > 1:
                assert_in_parts(run.pipeline, devices)
            np.savez(folder / f"{batch_size} {devices}.npz", **run.found())
    np.savez(folder / f"16 {CHANGED}.npz", **changed())
    settings = config(16, 2)
    run = Run(replace(settings, replay=replace(settings.replay, device=True)))
    run.update(UPDATES, compiled=True)
    assert_in_parts(run.pipeline, 2)
    np.savez(folder / f"16 {ON_DEVICE}.npz", **run.found())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharding")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_COMPILATION_CACHE_DIR": str(path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, __file__, str(path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


# -- tests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "devices"), [(16, "2"), (16, "8"), (64, "2"), (64, "8"), (16, CHANGED)]
)
def test_any_number_of_devices_learns_the_same(folder: Path, batch_size: int, devices: str) -> None:
    """Parameters, optimiser and EMA after the updates; priorities and reanalysed searches of each."""
    with (
        np.load(folder / f"{batch_size} 1.npz") as alone,
        np.load(folder / f"{batch_size} {devices}.npz") as together,
    ):
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            bound = TOLERANCE_OF_WEIGHTS if name == "reanalysed weights" else TOLERANCE
            np.testing.assert_allclose(together[name], expected, rtol=0, atol=bound, err_msg=name)


def test_rows_on_the_first_device_give_the_same(folder: Path) -> None:
    with np.load(folder / "16 2.npz") as here, np.load(folder / f"16 {ON_DEVICE}.npz") as there:
        assert here.keys() == there.keys()
        for name, expected in here.items():
            np.testing.assert_array_equal(there[name], expected, err_msg=name)


def test_layout_names_every_array() -> None:
    with_q = replace(
        SMALL,
        model=replace(SMALL.model, q_heads=2),
        loss=replace(SMALL.loss, q=QConfig(weight=1.0)),
    )
    agent, replay = experience(with_q)
    batch, _ = replay.sample(np.random.default_rng(0), 16, 3)
    there = sharding.layout(1)
    targets = jax.eval_shape(
        agent.learner.make_targets, agent.state, agent.statistics.normalizer(), batch, 0
    )
    for place, arrays, axes in (
        (there.batch, batch, BATCH_AXIS),
        (there.targets, targets, TARGET_AXIS),
    ):
        for split, field, axis in zip(place, arrays, axes, strict=True):
            for x in jax.tree.leaves(field):
                # The axis that is split is the batch's; what has none is no sixteenth of anything.
                assert [x.shape[i] for i, name in enumerate(split.spec) if name] in ([], [16])
                assert 16 not in x.shape if axis == WHOLE else x.shape[axis] == 16


def test_devices_that_cannot_share_a_batch_are_refused() -> None:
    with pytest.raises(UserError, match="--devices 0: must be greater than 0"):
        check(replace(SMALL, devices=0), SUITE.num_tasks)
    with pytest.raises(
        UserError, match="--optimizer.batch-size 64: is no multiple of the 3 devices"
    ):
        check(replace(SMALL, devices=3), SUITE.num_tasks)


@pytest.fixture
def too_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ezm.platform, "prepare_jax", lambda device: None)
    return 64 * len(jax.devices())


def test_more_devices_than_there_are_is_one_line(
    too_many: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ezm.cli.main(["train", "cartpole", "--preset=cpu", f"--devices={too_many}"]) == 2
    said = capsys.readouterr().err
    assert f"--devices {too_many}: JAX has {len(jax.devices())} (" in said
    assert f"ask for at most {len(jax.devices())}" in said and said.count("\n") == 1
    if jax.devices()[0].platform == "cpu":
        assert f"XLA_FLAGS=--xla_force_host_platform_device_count={too_many}" in said
    assert not list(Path().iterdir())


def test_a_run_goes_on_with_another_number_of_devices(
    too_many: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(Path("run"), to_dict(replace(SMALL, suite="cartpole", devices=too_many)))
    command = ["train", "--resume", "run"]
    assert ezm.cli.main(command) == 2
    assert f"--devices {too_many}: JAX has" in capsys.readouterr().err
    assert ezm.cli.main([*command, "--devices=0"]) == 2
    assert "--devices 0: must be greater than 0" in capsys.readouterr().err
    seen: list[int] = []

    def record(run: RunFolder, config: TrainConfig, *others: Any) -> bool:
        seen.append(config.devices)
        return False

    monkeypatch.setattr(session, "_run", record)
    ezm.cli.main([*command, "--devices=1"])
    assert seen == [1] and run.config["devices"] == too_many


if __name__ == "__main__":
    main(Path(sys.argv[1]))
