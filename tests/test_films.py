"""What is filmed: the agent's thoughts, the candidates played out beside the episode, the panel, the mp4."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from imageio_ffmpeg import read_frames

from ezm.acting import evaluate
from ezm.acting.inspector import Paths, PlanInspector, PlanTrace
from ezm.agent import build
from ezm.config import PlannerConfig
from ezm.config.presets import PRESETS
from ezm.errors import UserError
from ezm.report import parts
from ezm.tasks import Suite, Task, load_suite
from ezm.tasks.rendering import tracked_body
from ezm.tasks.simulator import Undrawable
from ezm.tasks.watchdog import Watchdog
from ezm.watching import films
from ezm.watching.films import Film, Pictures, film, film_all, film_path
from ezm.watching.panel import HEIGHT, panel
from ezm.watching.play import Episode, Play, colour, ranks

# One agent for three tasks: of MuJoCo, with pictures of its own, and without any.
OWN = """
import gymnasium
import jax.numpy as jnp
import numpy as np


class Slider(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = 0.0, 0
        return np.array([self.x]), {}

    def step(self, action):
        self.x += float(action[0]) / 4
        self.steps += 1
        return np.array([self.x]), 0.5, self.steps == 6, False, {}

    def render(self):
        return np.full((40, 20, 3), 40 * self.steps, np.uint8)


def drawn(render_mode=None):
    return Slider(render_mode)


def blind():
    return Slider()
"""
SUITE = "dmc:cartpole-swingup,own_tasks:drawn,own_tasks:blind"
CARTPOLE, DRAWN, BLIND = range(3)


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlanInspector]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_tasks.py").write_text(textwrap.dedent(OWN))
    config = dataclasses.replace(
        PRESETS["cpu"],
        model=dataclasses.replace(PRESETS["cpu"].model, latent_size=16),
        planner=PlannerConfig(simulations=4, root_actions=4, policy_actions=2),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield PlanInspector(build(config, load_suite(SUITE)), seed=1)


@pytest.fixture(scope="module")
def can_draw(inspector: PlanInspector) -> None:
    task = inspector.agent.suite.make(CARTPOLE, 0)
    try:
        Pictures(task, 16, 16).close()
    except UserError as error:
        pytest.skip(str(error))


def episode(**changes: Any) -> Episode:
    thought = PlanTrace(
        action=np.array([0.5]),
        value=3.0,
        actions=np.array([[0.1], [0.5], [0.9]]),
        q=np.array([1.0, 2.0, 3.0]),
        visits=np.array([1, 4, 0]),
    )
    return Episode("a-task", 1, 0.05, thought, **{"values": [3.0], **changes})


# -- thoughts ----------------------------------------------------------------------------------


def test_a_thought_is_what_the_search_found(inspector: PlanInspector) -> None:
    agent = inspector.agent
    observation = np.linspace(0, 1, agent.suite.observation_size, dtype=np.float32)
    thought = inspector.inspect(observation, CARTPOLE)
    assert thought.visits.sum() == 4 and thought.q.shape == (4,)
    assert (thought.actions == thought.action).all(-1).any()
    policy = PlanInspector(agent, "policy", seed=1)
    policy.steps = inspector.steps - 1
    again = policy.inspect(observation, CARTPOLE)
    np.testing.assert_array_equal(again.q, thought.q)
    model, task = agent.state.model, jnp.array([CARTPOLE])
    context = model.context(task, agent.learner.suite.action_mask)
    normalised = agent.statistics.normalizer()(jnp.array([observation]), task)
    latent = model.represent(normalised, context)
    mean = model.predict(latent, context)[1].mode()[0]
    np.testing.assert_allclose(again.action, mean, atol=1e-5)


def test_imagined_paths_are_steps_of_the_model(inspector: PlanInspector) -> None:
    agent = inspector.agent
    observation = np.linspace(-1, 1, agent.suite.observation_size, dtype=np.float32)
    actions = np.array([[-0.5], [0.8]], np.float32)
    paths = inspector.imagine(observation, CARTPOLE, actions, 3)
    assert paths.actions.shape == (2, 3, 1) and paths.rewards.shape == (2, 3)
    np.testing.assert_array_equal(paths.actions[:, 0], actions)
    model, task = agent.state.model, jnp.array([CARTPOLE] * 2)
    context = model.context(task, agent.learner.suite.action_mask)
    normalised = agent.statistics.normalizer()(jnp.array([observation] * 2), task)
    latent = model.represent(normalised, context)
    for step in range(3):
        latent, logits = model.step(latent, jnp.array(paths.actions[:, step]), context)
        np.testing.assert_allclose(paths.rewards[:, step], model.reward(logits), atol=1e-4)
        if step < 2:
            mean = model.predict(latent, context)[1].mode()
            np.testing.assert_allclose(paths.actions[:, step + 1], mean, atol=1e-4)


# -- playing -----------------------------------------------------------------------------------


def test_a_simulator_of_which_there_is_no_second_one_is_played(
    inspector: PlanInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Suite.make

    def once(suite: Suite, task: int, seed: int, *, pictures: bool = False) -> Task:
        if not pictures:
            raise UserError("no licence left")
        return make(suite, task, seed, pictures=pictures)

    monkeypatch.setattr(Suite, "make", once)
    play = Play(inspector, CARTPOLE, seed=3)
    play.step()
    assert len(play.episode.rewards) == 1 and not play.episode.traces
    play.close()


def test_playing_candidates_out_does_not_touch_the_episode(inspector: PlanInspector) -> None:
    play = Play(inspector, CARTPOLE, seed=3)
    alone = inspector.agent.suite.make(CARTPOLE, 3)
    alone.reset()
    rewards = []
    for _ in range(7):
        rewards.append(alone.step(play.episode.thought.action).reward)
        play.step()
    assert play.episode.rewards == rewards
    assert play.episode.total == pytest.approx(sum(rewards))
    assert play.episode.seconds == pytest.approx(7 * 0.08)  # eight steps of 10 ms each
    assert len(play.episode.values) == 8
    # Of 0.2 s and more, three steps, three are predicted at a time.
    assert {start: len(each) for start, each in play.episode.predictions.items()} == {0: 9}
    play.close()
    alone.close()


def test_a_play_is_watched(inspector: PlanInspector) -> None:
    play = Play(inspector, CARTPOLE, seed=3)
    assert play._copy is not None
    assert all(isinstance(each.guard, Watchdog) for each in (play.task, play._copy))
    play.close()


def test_a_play_without_end_is_cut(
    inspector: PlanInspector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evaluate, "LONGEST_EPISODE", 2)
    play = Play(inspector, DRAWN, seed=3)
    for _ in range(3):
        play.step()
    assert play.episode.rewards == [0.5] * 2 and play.episode.end == "time is up"
    (said,) = caplog.messages
    assert said.startswith("task own_tasks:drawn: an episode has not ended within 2 steps")
    play.close()


def test_a_trace_is_where_the_imagined_actions_lead(
    inspector: PlanInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    imagined: list[Paths] = []
    imagine = inspector.imagine

    def remembered(*arguments: Any) -> Paths:
        imagined.append(imagine(*arguments))
        return imagined[-1]

    monkeypatch.setattr(inspector, "imagine", remembered)
    play = Play(inspector, CARTPOLE, seed=5)
    assert len(play.episode.traces) == 5  # four candidates, and what will be done
    chosen = play.episode.traces[-1]
    alone = inspector.agent.suite.make(CARTPOLE, 5)
    alone.reset()
    scene: Any = alone.simulator.view()
    assert scene.model.body(scene.body).name == "pole_1"
    expected = [scene.data.xipos[scene.body].copy()]
    for action in imagined[0].actions[0]:
        alone.step(action)
        expected.append(scene.data.xipos[scene.body].copy())
    np.testing.assert_array_equal(chosen.points, expected)
    assert np.ptp(chosen.points, axis=0).max() > 1e-4
    play.close()
    alone.close()


def test_an_episode_that_is_over_waits(inspector: PlanInspector) -> None:
    play = Play(inspector, DRAWN, seed=0)
    assert play.step_seconds == 0.05 and play.episode.traces == []
    for _ in range(9):
        play.step()
    assert play.episode.rewards == [0.5] * 6 and play.episode.end == "ended by the task"
    play.begin()
    assert play.episode.number == 2 and play.episode.rewards == [] and not play.episode.end
    play.close()


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("dmc:cartpole-balance", "pole_1"),
        ("dmc:reacher-easy", "finger"),
        ("dmc:walker-walk", "torso"),
        ("hb:h1-walk", "torso_link"),
    ],
)
def test_the_body_that_tells(task: str, body: str) -> None:
    made = load_suite(task).make(0, 0)
    made.reset()
    scene: Any = made.simulator.view()
    assert scene.model.body(scene.body).name == body
    assert scene.body == tracked_body(scene.model) or task.startswith("hb:")


def test_known_shades() -> None:
    np.testing.assert_allclose(ranks(np.array([4.0, 2.0, 3.0])), [1, 0, 0.5])
    np.testing.assert_array_equal(ranks(np.array([7.0, 7.0])), [1, 1])
    assert colour(0.0) == (0.23, 0.51, 0.96) and colour(1.0) == (0.98, 0.55, 0.10)


# -- the panel ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rewards": [0.5, -2.0], "values": [1.0, 2.0, -5.0], "predictions": {0: np.ones(3)}},
        {"rewards": [0.0] * 400, "values": [0.0] * 401, "predictions": {0: np.zeros(9)}},
        {"end": "time is up", "number": 12, "task": "a-very.long:name/of_a_task" * 3},
    ],
)
@pytest.mark.parametrize("width", [320, 480, 960])
def test_a_panel_of_any_episode(changes: dict[str, Any], width: int) -> None:
    picture = panel(dataclasses.replace(episode(), **changes), width)
    assert picture.shape == (HEIGHT, width, 3) and picture.dtype == np.uint8
    assert picture.std() > 5


def test_the_panel_shows_what_came_beside_what_was_predicted() -> None:
    """Blue where rewards came, orange where they were predicted; the first is drawn with time."""

    def blue(picture: np.ndarray) -> int:
        middle = picture[48:, 170:310].astype(int)
        return int((middle[..., 2] - middle[..., 0] > 90).sum())

    def orange(picture: np.ndarray) -> int:
        middle = picture[48:, 170:310].astype(int)
        return int((middle[..., 0] - middle[..., 2] > 90).sum())

    predicted = {0: np.linspace(0, 1, 20)}
    before = panel(episode(predictions=predicted), 480)
    after = panel(
        episode(predictions=predicted, rewards=[1.0] * 15, values=[3.0] * 16),
        480,
    )
    assert orange(before) > 20 and orange(after) > 20
    assert blue(before) == 0 and blue(after) > 20


# -- pictures and films ------------------------------------------------------------------------


def test_an_own_picture_is_fitted(inspector: PlanInspector) -> None:
    task = inspector.agent.suite.make(DRAWN, 0, pictures=True)
    task.reset()
    task.step(np.zeros(1))
    pictures = Pictures(task, 60, 20)
    picture = pictures.draw()
    assert picture.shape == (20, 60, 3)
    assert (picture == 40).all()  # on the colour of its corner
    pictures.close()


def test_without_pictures_there_is_no_film(inspector: PlanInspector, tmp_path: Path) -> None:
    found = list(film_all(inspector, [BLIND, DRAWN], tmp_path, seconds=0.1))
    assert isinstance(found[0], Undrawable) and "own_tasks:blind has no pictures" in str(found[0])
    assert isinstance(found[1], Film)
    assert [path.name for path in tmp_path.iterdir()] == ["own_tasks%3Adrawn.mp4"]


def test_names_of_films() -> None:
    folder = Path("run")
    assert film_path(folder, "cartpole-swingup") == folder / "cartpole-swingup.mp4"
    assert film_path(folder, "my.tasks:make") == folder / "my.tasks%3Amake.mp4"


def test_no_two_tasks_share_a_film(tmp_path: Path) -> None:
    """The report names each of them."""
    names = ["m:größe", "m:grüße", "m:gr-e", "m-gr-e", "m/gr-e", "m:gr%e", "../m:gr e"]
    paths = [film_path(tmp_path, name) for name in names]
    assert {path.parent for path in paths} == {tmp_path} and len(set(paths)) == len(names)
    for path in paths:
        path.write_bytes(b"film")
    assert list(parts.films(tmp_path, names)) == names


@pytest.mark.parametrize("folder", ["exp:1", "http:", "-y", "a%d b"])
def test_films_in_folders_with_odd_names(
    inspector: PlanInspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = film_path(Path(folder), "own_tasks:drawn")
    film(inspector, DRAWN, path, seconds=0.1)
    assert path.stat().st_size > 500


# imageio_ffmpeg forks to read a film, and leaves the pipes open if its ffmpeg ends first.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:unclosed file <_io.Buffered:ResourceWarning")
def test_a_film_plays_in_browsers(inspector: PlanInspector, tmp_path: Path, can_draw: None) -> None:
    path = tmp_path / "films" / "film.mp4"
    made = film(inspector, CARTPOLE, path, seconds=0.8)
    assert made.path == path and made.returns == () and made.frames == 11  # the first state too
    assert made.frames_per_second == pytest.approx(12.5)
    reader = read_frames(str(path))
    facts = next(reader)
    pictures = [np.frombuffer(each, np.uint8) for each in reader]
    assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p")
    assert facts["size"] == facts["source_size"] == (480, 450)
    assert len(pictures) == 11 and pictures[0].std() > 20
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # it begins before it is loaded
    assert len(content) < 200_000


def test_a_film_of_whole_episodes(inspector: PlanInspector, tmp_path: Path) -> None:
    made = film(inspector, DRAWN, tmp_path / "film.mp4", episodes=2)
    assert made.returns == (3.0, 3.0)
    # Seven states each, the last one for 0.6 s.
    assert made.frames_per_second == 20 and made.frames == 2 * (6 + 12)
    assert str(made).startswith(f"{made.path}: 2 s, ") and str(made).endswith("return 3, 3")


def test_a_film_that_fails_leaves_the_old_one(
    inspector: PlanInspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"the old one")

    def fails(play: Play, pictures: Pictures) -> np.ndarray:
        if play.episode.rewards:
            raise RuntimeError("the graphics card is on fire")
        return np.zeros((450, 480, 3), np.uint8)

    monkeypatch.setattr(films, "draw", fails)
    with pytest.raises(RuntimeError, match="on fire"):
        film(inspector, DRAWN, path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written(inspector: PlanInspector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        film(inspector, DRAWN, tmp_path / "file" / "film.mp4")
