"""The map of the tasks: embeddings read from a checkpoint without the rest of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ezm.agent import build
from ezm.config import to_dict
from ezm.config.presets import defaults
from ezm.errors import UserError
from ezm.report.figures import embedding_panel
from ezm.report.parts import task_embeddings
from ezm.report.record import Record
from ezm.report.report import report_page, shown
from ezm.runs.folder import RunFolder
from ezm.tasks import load_suite

SUITE = "cartpole"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose embeddings are partly longer than 1."""
    config = defaults("cpu", SUITE)
    model = replace(config.model, latent_size=8, task_embedding_size=4, task_embedding_scale=1.0)
    config = replace(config, suite=SUITE, model=model)
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", to_dict(config))
    run.save_checkpoint(
        7, {"agent": build(config, load_suite(SUITE)).arrays(), "replay": {"x": 1}}, {}
    )
    return run


def test_embeddings_are_those_that_the_networks_see(run: RunFolder) -> None:
    from ezm.acting.load import load_agent

    found = task_embeddings(run)
    assert found is not None
    step, embedding = found
    agent, _ = load_agent(run)
    context = agent.state.model.context(jnp.arange(4), agent.learner.suite.action_mask)
    norms = np.linalg.norm(agent.state.model.task_embedding, axis=-1)
    assert step == 7 and (norms > 1).any() and (norms < 1).any()
    np.testing.assert_allclose(embedding, context.embedding, rtol=1e-6)


def test_the_page_names_every_task_on_the_map(run: RunFolder) -> None:
    tasks = load_suite(SUITE).task_names
    start = {"kind": "start", "step": 0, "seconds": 0.0, "tasks": list(tasks)}
    page = report_page(shown([Record.of(run.path, run.config, [start])]))
    map_ = page.partition("<h2>Map of the tasks</h2>")[2].partition("<h2>")[0]
    assert all(f"{task}</text>" in map_ for task in tasks) and "at 7 environment steps" in map_


def test_components_keep_distances_of_points_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(5, 2)) * (3.0, 1.0)
    turned = flat @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 4.0
    panel = embedding_panel("abcde", turned)
    drawn = np.array([line.get_xydata()[0] for line in panel.lines if line.get_marker() == "o"])
    for points in (flat, drawn):
        points -= points.mean(0)
    np.testing.assert_allclose(drawn @ drawn.T, flat @ flat.T, atol=1e-9)
    assert [text.get_text() for text in panel.texts] == list("abcde")


def test_labels_never_cover_each_other() -> None:
    embedding = np.random.default_rng(1).normal(size=(14, 8))
    embedding[1:12] *= 0.01  # most of them in one place
    panel = embedding_panel([f"task {i}" for i in range(14)], embedding)
    heights = np.sort([text.get_position()[1] for text in panel.texts])
    assert len(heights) == 14
    points = [float(line.get_xydata()[0, 1]) for line in panel.lines]
    gap = (max(points) - min(points)) / 13
    assert (np.diff(heights) > gap * (1 - 1e-9)).all()
    assert panel.get_ylim()[0] < heights[0] and heights[-1] < panel.get_ylim()[1]


def test_a_checkpoint_that_cannot_be_read_is_named(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert task_embeddings(RunFolder.create(tmp_path / "new", run.config)) is None
    broken = RunFolder.create(tmp_path / "broken", run.config)
    (broken.path / "checkpoints" / "000000003").mkdir()
    with pytest.raises(UserError, match="no checkpoint can be read"):
        task_embeddings(broken)
    assert "000000003 is broken, passed over" in caplog.text
