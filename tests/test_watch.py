"""``ezm watch``: films and the browser's view from a run folder, and a machine with nothing to draw with."""

from __future__ import annotations

import dataclasses
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ezm.cli
from ezm import platform
from ezm.acting import load
from ezm.agent import Agent, build
from ezm.config import PlannerConfig, to_dict
from ezm.config.presets import PRESETS
from ezm.runs.folder import RunFolder
from ezm.tasks import load_suite
from ezm.tasks.rendering import Renderer
from ezm.watching import window
from ezm.watching.live import Controls

CONFIG = dataclasses.replace(
    PRESETS["cpu"],
    suite="dmc:cartpole-balance,gym:Pendulum-v1",
    steps=50,
    model=dataclasses.replace(PRESETS["cpu"].model, latent_size=16),
    planner=PlannerConfig(simulations=4, root_actions=4, policy_actions=2),
)

# Found before the standard library's own, so that no process finds a graphics library.
BLIND = """
import ctypes
import ctypes.util

names = ("GL", "EGL", "OSMesa", "GLX", "glfw")


class CDLL(ctypes.CDLL):
    def __init__(self, name, *arguments, **keywords):
        if name and any(f"lib{each}" in str(name) for each in names):
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        super().__init__(name, *arguments, **keywords)


find = ctypes.util.find_library
ctypes.CDLL = CDLL
ctypes.cdll = ctypes.LibraryLoader(CDLL)
ctypes.util.find_library = lambda name: None if name in names else find(name)
"""


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build(CONFIG, load_suite(CONFIG.suite))


@pytest.fixture(scope="module")
def run(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of an untrained agent."""
    folder = RunFolder.create(tmp_path_factory.mktemp("watch") / "run", to_dict(CONFIG))
    folder.save_checkpoint(0, {"agent": agent.arrays()}, {})
    return folder.path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of processes of their own."""
    cache = tmp_path_factory.mktemp("cache")
    own = {"EZM_CACHE": str(cache), "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **own}


@pytest.fixture
def can_draw() -> None:
    import mujoco

    try:
        Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16).close()
    except ezm.cli.UserError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def own_environment(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in this process leave its variables alone, and need not load what is here."""
    monkeypatch.setattr(platform, "prepare_jax", lambda device: None)
    monkeypatch.setattr(load, "load_agent", lambda run: (agent, 0))


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line on standard error of a command that must fail as a user's mistake."""
    capsys.readouterr()
    assert ezm.cli.main(["watch", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: "), lines
    return lines[-1]


# -- films -------------------------------------------------------------------------------------


def test_films_go_into_the_run_folder(
    run: Path, can_draw: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task", "cartpole-balance", "--seconds", "0.3"]
    assert ezm.cli.main(["watch", str(run), *options]) == 0
    film = run / "films" / "cartpole-balance.mp4"
    assert film.stat().st_size > 1000
    assert capsys.readouterr().out.startswith(f"{film}: 0 s, ")


def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        ("--task cartpole-blance", "(did you mean cartpole-balance?)"),
        ("--seconds 0", "--seconds 0: must be finite and greater than 0"),
        ("--seconds inf", "--seconds inf: must be finite and greater than 0"),
        ("--seconds nan", "--seconds nan: must be finite and greater than 0"),
        ("--episodes 0", "--episodes 0: must be at least 1"),
        ("--seed -1", "--seed -1: must not be negative"),
        ("--live nowhere", "'nowhere' for argument '--live'"),
        ("--live browser --port 70000", "--port 70000: must be between 0 and 65535"),
    ):
        assert said in error(capsys, str(run), *options.split())
    assert "is not a run folder" in error(capsys, str(run.parent / "nothing"))


def test_a_task_whose_library_is_missing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # Pendulum draws with it
    assert ezm.cli.main(["watch", str(run), "--task", "Pendulum-v1"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "Pendulum-v1 has no pictures" in said[0] and "gymnasium[classic" in said[0]
    assert said[1] == "error: no task can be filmed; the lines above say why"


def test_no_window_without_a_screen(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    said = error(capsys, str(run), "--live", "window")
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set; use --live browser" in said
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("MJPYTHON_BIN", raising=False)
    assert "mjpython" in window.obstacle()


def test_a_machine_with_nothing_to_draw_with(
    tmp_path: Path, run: Path, environment: dict[str, str]
) -> None:
    """A line that says what to install; training and its report go on without pictures."""
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(BLIND))
    path = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    blind = {**environment, "PYTHONPATH": path}
    blind.pop("MUJOCO_GL", None)

    def go(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ezm", *arguments]
        return subprocess.run(command, env=blind, text=True, capture_output=True, check=False)

    done = go("watch", str(run), "--task", "cartpole-balance")
    assert done.returncode == 2, done
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: nothing to draw with (egl: ") and "apt install" in said
    assert "Traceback" not in done.stderr
    assert not (run / "films").exists() or not list((run / "films").glob(".*"))
    trained = tmp_path / "trained"
    options = """
        --random-steps 10 --evaluate-every 1000 --evaluation-episodes 1 --final-episodes 1
        --planner.simulations 4 --planner.root-actions 4 --planner.policy-actions 2
        --model.latent-size 16 --optimizer.batch-size 8 --loss.unroll 2 --loss.n-step 2
        --planner.leaf-rollout 0 --loss.path-weight 0 --updates-per-step 1 --steps 20
    """
    done = go("train", "dmc:cartpole-balance", *options.split(), "--out", str(trained))
    assert done.returncode == 0, done.stderr
    assert (trained / "report.html").exists()


# -- the browser's view ------------------------------------------------------------------------


@pytest.fixture
def served(run: Path, environment: dict[str, str], can_draw: None) -> Iterator[Any]:
    """A process that serves a run, and its address."""
    command = [sys.executable, "-m", "ezm", "watch", str(run), "--live", "browser", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--task", "cartpole-balance"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("http://127.0.0.1:"):
        process.kill()
        raise AssertionError((line, process.communicate()))
    yield process, line.split()[0]
    process.kill()
    process.communicate()


def picture(stream: http.client.HTTPResponse) -> Image.Image:
    """The next picture of a stream."""
    for line in stream:
        if line.lower().startswith(b"content-length:"):
            stream.readline()
            return Image.open(io.BytesIO(stream.read(int(line.split(b":")[1]))))
    raise AssertionError("the stream has ended")


def test_the_view_in_a_browser(served: Any) -> None:
    process, address = served

    def order(what: str) -> str:
        request = urllib.request.Request(f"{address}/{what}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    with urllib.request.urlopen(address, timeout=60) as answer:
        page = answer.read().decode()
    assert '<option value="0">cartpole-balance</option>' in page
    assert "http" not in page.replace(address, "")  # it asks nobody else
    stream = urllib.request.urlopen(f"{address}/stream", timeout=60)
    first = picture(stream)
    assert first.size == (640, 550) and first.format == "JPEG"
    assert [picture(stream).size for _ in range(3)] == [first.size] * 3
    assert order("pause") == '{"paused": true, "task": 0}'
    assert order("restart") == '{"paused": false, "task": 0}'
    with pytest.raises(urllib.error.HTTPError, match="404"):
        order("task/5")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    said = process.stderr.read()
    assert "Traceback" not in said and process.stdout.read() == "closed\n"


def test_a_port_that_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = error(capsys, str(run), "--live", "browser", "--port", port)
    assert said.startswith(f"error: --port {port}: ") and "choose another" in said


def test_orders() -> None:
    controls = Controls(["a", "b"])
    assert controls.order("next") and controls.chosen == 1
    assert controls.order("next") and controls.chosen == 0
    assert controls.order("task", 1) and controls.chosen == 1
    assert not controls.order("task", 2) and not controls.order("dance")
    assert controls.order("pause") and controls.paused
    assert controls.order("restart") and not controls.paused
    assert controls.take_restart() and not controls.take_restart()
    assert controls.order("close") and controls.closed
