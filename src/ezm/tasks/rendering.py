"""Pictures of a MuJoCo state, drawn without a screen, with traces in the scene."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from ezm.errors import UserError

_BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
_OPEN: weakref.WeakSet[Renderer] = weakref.WeakSet()
_TRACE_RADIUS = 0.0025  # relative to the distance
_ROAMS = 3
_INSTALL = (
    "install OpenGL for machines without a screen, on Debian and Ubuntu: "
    "apt install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"
)


class Trace(NamedTuple):
    """A path through a scene."""

    points: np.ndarray
    """(N, 3) in the scene's coordinates."""
    colour: tuple[float, float, float]
    """Red, green and blue within [0, 1]."""
    width: float = 1.0
    """Width in units of about two pixels, at any distance, in a picture 300 pixels high."""


class Scene(NamedTuple):
    """A MuJoCo state, the camera that sees it, and the body to trace in it."""

    model: mujoco.MjModel
    data: mujoco.MjData
    camera: str | int | mujoco.MjvCamera
    """Name or number of one of the model's cameras, or a free camera."""
    body: int
    """The body whose path shows the effect of an action."""
    goal: np.ndarray | None = None
    """(3,), a place to mark."""


class Renderer:
    """Draws states of one model, in any thread.

    It tries EGL first, then OSMesa. On macOS it uses macOS's own CGL. The environment variable ``MUJOCO_GL`` (``egl``
    or ``osmesa``) selects one of them.

    Args:
        model: the model to draw.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        quick: coarser shadows. Without a graphics card, shadows take much of a picture's time.

    Raises:
        UserError: no library can draw (the message says what to install), or the size is impossible.
    """

    def __init__(
        self, model: mujoco.MjModel, width: int = 640, height: int = 480, *, quick: bool = False
    ) -> None:
        check_size(width, height)
        self._model = model
        self._gl = _gl_context(width, height)
        self._lock = threading.Lock()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        with self._current():
            self._context = _drawing_context(model, width, height, quick)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=2_000)
        self._pixels = np.zeros((height, width, 3), np.uint8)
        if not _OPEN:
            # After the import of the graphics library, so that the library still exists at the interpreter's end.
            atexit.register(_close_all)
        _OPEN.add(self)

    def render(
        self,
        data: mujoco.MjData,
        camera: str | int | mujoco.MjvCamera,
        goal: np.ndarray | None = None,
        traces: Sequence[Trace] = (),
    ) -> np.ndarray:
        """Returns the state as a camera of the model, or a free camera, sees it: (height, width, 3) uint8.

        A ball marks ``goal`` (3,).
        """
        if isinstance(camera, str | int):
            number, camera = self._model.camera(camera).id, mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        everything, option = int(mujoco.mjtCatBit.mjCAT_ALL), mujoco.MjvOption()
        mujoco.mjv_updateScene(self._model, data, option, None, camera, everything, self._scene)
        if goal is not None:
            ball = self._scene.geoms[self._scene.ngeom]
            colour = np.array([0.85, 0.3, 0.1, 0.8], np.float32)
            sphere = mujoco.mjtGeom.mjGEOM_SPHERE
            mujoco.mjv_initGeom(ball, sphere, np.full(3, 0.05), goal, np.eye(3).ravel(), colour)
            self._scene.ngeom += 1
        add_traces(self._scene, traces, self._scene.camera[0].pos)
        with self._current():
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
            return self._pixels[::-1].copy()

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Makes the context current in this thread. EGL binds a context to one thread, so it is released at once."""
        with self._lock:
            self._gl.make_current()
            try:
                yield
            finally:
                if os.environ["PYOPENGL_PLATFORM"] == "egl":
                    from mujoco.egl import EGL, EGL_DISPLAY

                    none = EGL.EGL_NO_SURFACE
                    EGL.eglMakeCurrent(EGL_DISPLAY, none, none, EGL.EGL_NO_CONTEXT)

    def close(self) -> None:
        """Frees the graphics memory. Closing twice does no harm."""
        if self in _OPEN:
            _OPEN.remove(self)
            with self._current():
                self._context.free()
            self._gl.free()


def check_size(width: int, height: int) -> None:
    """Refuses a size that no picture can have.

    Raises:
        UserError: width or height is not a whole number of at least 1.
    """
    for name, value in (("width", width), ("height", height)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise UserError(f"{name}={value!r}: pictures need a whole number of at least 1")


def _drawing_context(
    model: mujoco.MjModel, width: int, height: int, quick: bool
) -> mujoco.MjrContext:
    """Makes a drawing context. MuJoCo reads its sizes from the caller's model, so they are restored."""
    whole, quality = model.vis.global_, model.vis.quality
    before = whole.offwidth, whole.offheight, quality.shadowsize
    whole.offwidth, whole.offheight = max(before[0], width), max(before[1], height)
    if quick:
        quality.shadowsize = min(quality.shadowsize, 2048)
    try:
        return mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    except mujoco.FatalError as error:
        raise UserError(
            f"pictures of {width} x {height} pixels cannot be drawn ({error}); choose a smaller size"
        ) from error
    finally:
        whole.offwidth, whole.offheight, quality.shadowsize = before


def add_traces(scene: mujoco.MjvScene, traces: Sequence[Trace], eye: np.ndarray) -> None:
    """Draws as many traces into a scene as it has room for, equally thick from ``eye`` (3,) at any distance."""
    for trace in traces:
        colour = np.array([*trace.colour, 1.0], np.float32)
        for start, end in itertools.pairwise(trace.points):
            if scene.ngeom >= scene.maxgeom:
                return
            piece = scene.geoms[scene.ngeom]
            capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
            radius = _TRACE_RADIUS * trace.width * float(np.linalg.norm(end - eye))
            mujoco.mjv_initGeom(piece, capsule, np.zeros(3), np.zeros(3), np.zeros(9), colour)
            mujoco.mjv_connector(piece, capsule, radius, start, end)
            piece.emission = 0.6  # its colour must be readable in the shade too
            scene.ngeom += 1


def tracked_body(model: mujoco.MjModel) -> int:
    """Returns the body whose path best shows the effect of an action.

    If the first moving body has three degrees of freedom or more, this is the heaviest moving body of its tree.
    Otherwise it is the end of the last moving link.
    """
    moving = [body for body in range(1, model.nbody) if model.body_dofnum[body]]
    if not moving:
        return model.nbody - 1
    if model.body_dofnum[moving[0]] < _ROAMS:
        return max(b for b in range(model.nbody) if model.body_weldid[b] == moving[-1])
    own = [body for body in moving if model.body_rootid[body] == model.body_rootid[moving[0]]]
    return max(own, key=lambda body: float(model.body_mass[body]))


def _close_all() -> None:
    for renderer in list(_OPEN):
        renderer.close()


def _gl_context(width: int, height: int) -> Any:
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    backends = (wanted,) if wanted in _BACKENDS else _BACKENDS
    reasons = []
    for backend in backends:
        try:
            _forget_other(backend)
            return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        except Exception as error:  # noqa: BLE001 - a missing library shows itself in many ways
            reasons.append(f"{backend}: {' '.join(str(error).split()) or type(error).__name__}")
    raise UserError(f"nothing to draw with ({'; '.join(reasons)}); {_INSTALL}")


def _forget_other(backend: str) -> None:
    """Unloads PyOpenGL if it is bound to another backend. It binds at its first import, even if that fails."""
    if os.environ.get("PYOPENGL_PLATFORM", backend) != backend:
        for name in list(sys.modules):
            if name.startswith(("OpenGL", "mujoco.egl", "mujoco.osmesa")):
                del sys.modules[name]
    os.environ["PYOPENGL_PLATFORM"] = backend
