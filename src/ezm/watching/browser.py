"""A live view for the browser: one page, served to this machine only.

The agent plays in the main thread, because drawing is bound to it. The server's threads send the latest picture as a
stream of JPEGs and pass on orders.
"""

from __future__ import annotations

import errno
import html
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
from PIL import Image

from ezm.acting.inspector import PlanInspector
from ezm.errors import UserError
from ezm.platform import at_interrupt
from ezm.watching.films import draw, drawn
from ezm.watching.live import Controls, perform

ADDRESS = "127.0.0.1"
_SIZE = 640, 400
"""Size of the picture above the panel, in pixels."""
_BOUNDARY = "picture"
_UNWATCHED = 2.0
"""Seconds without a watcher after which the agent pauses."""


class Stream:
    """The latest picture, for any number of watchers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._part = b""
        self._asked = time.monotonic()

    def show(self, picture: np.ndarray) -> None:
        """Publishes a picture (H, W, 3) uint8."""
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "JPEG", quality=85)
        jpeg = content.getvalue()
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        with self._changed:
            self._part = head.encode() + jpeg + b"\r\n"
            self._changed.notify_all()

    def parts(self, controls: Controls) -> Iterator[bytes]:
        """Yields the latest picture and each later one as a part of the stream, until the view is closed."""
        seen = b""
        while not controls.closed:
            with self._changed:
                self._asked = time.monotonic()
                self._changed.wait_for(lambda: self._part is not seen, _UNWATCHED / 2)  # noqa: B023
                if self._part is seen:
                    continue
                seen = self._part
            yield seen

    def unwatched(self) -> bool:
        """Returns whether nobody has asked for a picture for a while."""
        return time.monotonic() - self._asked > _UNWATCHED


def serve(
    inspector: PlanInspector,
    tasks: Sequence[int],
    seed: int,
    port: int,
    announce: Callable[[str], object],
) -> None:
    """Plays in a page at http://127.0.0.1:port until Ctrl-C, and pauses while nobody watches.

    The page offers ``tasks``, indices in the agent's suite. Port 0 takes any free port. ``announce`` receives a line
    with the page's address once there is a picture.

    Raises:
        UserError: the port is taken, a task has no pictures, or no library can draw.
    """
    controls = Controls([inspector.agent.suite.task_names[task] for task in tasks])
    stream = Stream()
    closing = at_interrupt(lambda: controls.order("close"))
    with _serving(controls, stream, port) as address, closing:
        while not controls.closed:
            with drawn(inspector, tasks[controls.chosen], seed, *_SIZE) as (play, pictures):
                stream.show(draw(play, pictures))
                if address:
                    announce(f"{address}  (Ctrl-C ends it)")
                    address = ""
                perform(
                    play,
                    controls,
                    lambda: stream.show(draw(play, pictures)),
                    stream.unwatched,
                )


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keeps requests out of the output."""


@contextmanager
def _serving(controls: Controls, stream: Stream, port: int) -> Iterator[str]:
    """Serves the page in threads of its own, and yields its address."""

    def answer(request: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        path = request["PATH_INFO"]
        if request["REQUEST_METHOD"] == "POST":
            what, _, number = path.strip("/").partition("/")
            known = controls.order(what, int(number) if number.isdecimal() else 0)
            path = "/state" if known else None
        if path == "/stream":
            kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
            start("200 OK", [("Content-Type", kind), ("Cache-Control", "no-store")])
            return stream.parts(controls)
        if path == "/":
            kind, text = "text/html; charset=utf-8", _page(controls.tasks)
        elif path == "/state":
            state = {"paused": controls.paused, "task": controls.chosen}
            kind, text = "application/json", json.dumps(state)
        else:
            start("404 Not Found", [])
            return []
        start("200 OK", [("Content-Type", kind)])
        return [text.encode()]

    try:
        server = make_server(ADDRESS, port, answer, _Server, _Handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UserError(
            f"--port {port}: {error.strerror}; choose another, or 0 for any that is free"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{ADDRESS}:{server.server_port}"
    finally:
        controls.order("close")
        server.shutdown()
        server.server_close()
        thread.join()


def _page(tasks: Sequence[str]) -> str:
    options = (f'<option value="{i}">{html.escape(task)}</option>' for i, task in enumerate(tasks))
    return _PAGE.replace("OPTIONS", "".join(options))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ezm watch</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { margin: 0; background: #0b0f14; color: #e8edf3; font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 1rem auto; padding: 0 1rem; }
img { display: block; width: 100%; border-radius: 8px; background: #10151c; aspect-ratio: 640/550; }
nav { display: flex; flex-wrap: wrap; gap: .6rem; margin: .8rem 0; }
button, select { font: inherit; color: inherit; background: #1b2430; border: 1px solid #2c3643;
  border-radius: 6px; padding: .35rem .9rem; cursor: pointer; }
p { color: #9aa7b5; font-size: .88rem; }
</style></head><body><main>
<img src="/stream" alt="The agent, and what it thinks">
<nav><button id="pause">Pause</button><button id="restart">Restart</button>
<select id="task" aria-label="Task">OPTIONS</select></nav>
<p>Paths in the picture: where the candidates with the highest Q would lead, blue for the lowest Q and orange for the
highest; green is what the agent does. Below: Q of every candidate, dots as large as their share of visits; rewards
that came and those predicted from each dot on; the value, the discounted return that the agent expects.</p>
<script>
const find = id => document.getElementById(id);
const show = state => {
  find("pause").textContent = state.paused ? "Go on" : "Pause";
  find("task").value = state.task;
};
const order = what => fetch("/" + what, {method: "POST"}).then(r => r.json()).then(show);
find("pause").onclick = () => order("pause");
find("restart").onclick = () => order("restart");
find("task").onchange = event => order("task/" + event.target.value);
fetch("/state").then(r => r.json()).then(show);
</script></main></body></html>
"""
