"""A live view in MuJoCo's own viewer."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import mujoco
import numpy as np

from ezm.acting.inspector import PlanInspector
from ezm.errors import UserError
from ezm.tasks.rendering import Scene, add_traces
from ezm.tasks.simulator import Undrawable
from ezm.watching.live import Controls, perform
from ezm.watching.panel import HEIGHT, panel
from ezm.watching.play import Play

_INSTEAD = "use --live browser"
_KEYS = {" ": "pause", "R": "restart", "N": "next"}
_HELP = "space\nR\nN", "pause\nrestart\nnext task"
_PANEL_WIDTH = 480


def obstacle() -> str:
    """Returns why no window can be opened here, or an empty text where one can."""
    if sys.platform == "darwin":
        # MuJoCo's own launcher sets this variable. Without the launcher its viewer does not open on macOS.
        if "MJPYTHON_BIN" in os.environ:
            return ""
        return "on macOS MuJoCo's viewer needs `mjpython -m ezm watch`"
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no screen: neither DISPLAY nor WAYLAND_DISPLAY is set"
    # The viewer fails in a thread of its own and then waits for ever, so a hidden window is tried first.
    try:
        import glfw

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not glfw.init():
                return "the screen cannot be opened"
            glfw.window_hint(glfw.VISIBLE, False)
            window = glfw.create_window(64, 64, "ezm", None, None)
            glfw.default_window_hints()
            if not window:
                return "the screen has no OpenGL"
            glfw.destroy_window(window)
    except Exception as error:  # noqa: BLE001 - a missing library shows itself in many ways
        return f"GLFW: {error}"
    return ""


def show(
    inspector: PlanInspector, tasks: Sequence[int], seed: int, announce: Callable[[str], object]
) -> None:
    """Plays in a window until it is closed. Space pauses, R restarts, N takes the next task.

    The ``tasks`` are indices in the agent's suite. ``announce`` receives a line on how to end it, before the window
    opens.

    Raises:
        UserError: no window can be opened.
        Undrawable: the simulator is not MuJoCo.
    """
    if why_not := obstacle():
        raise UserError(f"no window, {why_not}; {_INSTEAD}")
    controls = Controls([inspector.agent.suite.task_names[task] for task in tasks])
    announce("Ctrl-C or closing the window ends it")
    with contextlib.suppress(KeyboardInterrupt):
        while not controls.closed:
            with contextlib.closing(Play(inspector, tasks[controls.chosen], seed)) as play:
                _show(play, controls)


def _show(play: Play, controls: Controls) -> None:
    import mujoco.viewer

    scene = play.task.simulator.view()
    if not isinstance(scene, Scene):
        raise Undrawable(
            f"task {play.episode.task} is not simulated by MuJoCo, whose viewer this is: {_INSTEAD}"
        )
    # The viewer computes on the data that it shows, so it gets its own copy.
    shown = mujoco.MjData(scene.model)
    handle = mujoco.viewer.launch_passive(
        scene.model,
        shown,
        key_callback=lambda key: controls.order(_KEYS.get(chr(key), "")),
        show_left_ui=False,
        show_right_ui=False,
    )

    def resting() -> bool:
        if not handle.is_running():
            controls.order("close")
        return False

    def sync() -> None:
        view = play.task.simulator.view()
        if resting() or controls.closed or not isinstance(view, Scene):
            return
        with handle.lock():
            mujoco.mj_copyData(shown, scene.model, view.data)
            handle.user_scn.ngeom = 0
            add_traces(handle.user_scn, play.episode.traces, _eye(handle.cam, shown))
        picture = panel(play.episode, _PANEL_WIDTH)
        handle.set_images((mujoco.MjrRect(0, 0, _PANEL_WIDTH, HEIGHT), picture))
        handle.sync()

    with handle:
        with handle.lock():
            _point(handle.cam, scene)
        # Without a text, MuJoCo 3.17 does not draw the panel's image either.
        handle.set_texts((mujoco.mjtFontScale.mjFONTSCALE_100, None, *_HELP))
        perform(play, controls, sync, resting)


def _point(camera: mujoco.MjvCamera, scene: Scene) -> None:
    """Points the viewer's camera as the scene's own camera. From there the mouse moves it."""
    own = scene.camera
    if isinstance(own, mujoco.MjvCamera):
        camera.lookat[:], camera.distance = own.lookat, own.distance
        camera.azimuth, camera.elevation = own.azimuth, own.elevation
        # The viewer itself follows the tracked body.
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, scene.body
    else:
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = scene.model.camera(own).id


def _eye(camera: mujoco.MjvCamera, data: mujoco.MjData) -> np.ndarray:
    """Returns the position of a camera, (3,)."""
    if camera.type == mujoco.mjtCamera.mjCAMERA_FIXED:
        return data.cam_xpos[camera.fixedcamid]
    azimuth, elevation = np.deg2rad([camera.azimuth, camera.elevation])
    flat = np.cos(elevation)
    ahead = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    return camera.lookat - camera.distance * ahead
