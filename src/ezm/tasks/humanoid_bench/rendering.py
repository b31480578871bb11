"""Pictures of a MuJoCo state, without a screen."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import weakref
from typing import Any

import mujoco
import numpy as np

from ezm.errors import UserError

_BACKENDS = ("egl", "osmesa")
_OPEN: weakref.WeakSet[Renderer] = weakref.WeakSet()
_INSTALL = (
    "install OpenGL for machines without a screen, on Debian and Ubuntu: "
    "apt install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"
)


class Renderer:
    """Draws states of one model. Use it in the thread that made it.

    EGL is tried first, then OSMesa; the environment variable ``MUJOCO_GL`` (``egl`` or ``osmesa``) names
    one of them.

    Args:
        model: what is drawn.
        width: of the picture, in pixels.
        height: of the picture, in pixels.

    Raises:
        UserError: neither library is there; it says what to install.
    """

    def __init__(self, model: mujoco.MjModel, width: int = 640, height: int = 480) -> None:
        self._model = model
        # The largest that this model's own buffer allows; pictures may be larger than its default.
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._gl = _gl_context(width, height)
        self._gl.make_current()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=2_000)
        self._camera = mujoco.MjvCamera()
        self._option = mujoco.MjvOption()
        self._pixels = np.zeros((height, width, 3), np.uint8)
        if not _OPEN:
            # After the graphics library was imported, so that it is still there at the interpreter's end.
            atexit.register(_close_all)
        _OPEN.add(self)

    def render(
        self,
        data: mujoco.MjData,
        camera: str | mujoco.MjvCamera,
        goal: np.ndarray | None = None,
    ) -> np.ndarray:
        """(height, width, 3) uint8, the state as one of the model's cameras, or a free one, sees it.

        A ``goal`` (3,) is marked by a ball.
        """
        self._gl.make_current()
        if isinstance(camera, str):
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = self._model.camera(camera).id
            camera = self._camera
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, camera, everything, self._scene
        )
        if goal is not None:
            self._mark(goal)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1].copy()

    def _mark(self, goal: np.ndarray) -> None:
        ball = self._scene.geoms[self._scene.ngeom]
        sphere = mujoco.mjtGeom.mjGEOM_SPHERE
        color = np.array([0.85, 0.3, 0.1, 0.8], np.float32)
        mujoco.mjv_initGeom(ball, sphere, np.full(3, 0.05), goal, np.eye(3).ravel(), color)
        self._scene.ngeom += 1

    def close(self) -> None:
        """Free the graphics memory; closing twice does no harm."""
        if self in _OPEN:
            _OPEN.remove(self)
            self._gl.make_current()
            self._context.free()
            self._gl.free()


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
    """PyOpenGL binds to a platform at its first import, even where that fails."""
    if os.environ.get("PYOPENGL_PLATFORM", backend) != backend:
        for name in list(sys.modules):
            if name.partition(".")[0] == "OpenGL" or name.startswith(
                ("mujoco.egl", "mujoco.osmesa")
            ):
                del sys.modules[name]
    os.environ["PYOPENGL_PLATFORM"] = backend
