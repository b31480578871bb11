"""Compiled programs that a later process takes up without tracing them anew.

JAX keeps what XLA compiled, and finds it by what tracing gives; tracing takes seconds of Python at every start. Here
programs are found by what tracing starts from: the source of this package, the versions of the libraries, the
processor, JAX's settings, and what the program and its arguments are. They lie where JAX has its own cache, in a folder
``ezm``; where that is switched off, nothing is kept. As in JAX's cache, what lies there is code: only its owner should
be able to write to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
from jax.experimental import serialize_executable

_KEPT = 100
"""Programs, those used last; each has 0.1 to 3 MB in the preset ``cpu``."""
_DIGEST = hashlib.sha256().digest_size
_LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "numpy")


class Prepared(NamedTuple):
    """A program that was found, or one that is traced and has to be compiled."""

    out_info: Any
    """Shapes and dtypes of what it returns."""
    compile: Callable[[], Any]
    """Gives the program; takes long where it was not found."""


def prepare(
    function: Callable[..., Any],
    *arguments: Any,
    of: str,
    static: tuple[Any, ...] = (),
    **options: Any,
) -> Prepared:
    """What ``jax.jit(function, **options).lower(*arguments, *static)`` gives, or the same from an earlier process.

    Args:
        function: runs on one device. Its program is kept if it returns arrays in tuples, lists, dictionaries and
            named tuples.
        arguments: arrays, or their shapes and dtypes.
        of: names the program, and all that its function holds beside its arguments: what differs in any way
            that tracing sees has to differ here.
        static: arguments behind the others that it is compiled for.
        options: of ``jax.jit``.
    """
    structure = jax.tree.structure((arguments, {}))
    path = _path(f"{of} {static} {options} {structure}", jax.tree.leaves(arguments))
    if path is None:
        lowered = jax.jit(function, **options).lower(*arguments, *static)
        return Prepared(lowered.out_info, lowered.compile)
    if (found := _read(path, structure)) is not None:
        return Prepared(found.out_info, lambda: found)

    def named(*arguments: Any) -> Any:
        return function(*arguments)

    # JAX then finds it in its own cache only where it was kept there and is gone here.
    named.__name__ = f"ezm_{path.name[:16]}"
    lowered = jax.jit(named, **options).lower(*arguments, *static)

    def compile() -> Any:
        before = _events.hits, _events.requests
        compiled = lowered.compile()
        # What JAX had in its own cache cannot be written once more: it would lack its code (JAX 0.10).
        if _events.hits == before[0] and _events.requests > before[1]:
            _write(path, compiled)
        return compiled

    return Prepared(lowered.out_info, compile)


class _Events(threading.local):
    """Compilations that this thread asked for where JAX's cache is on, and those that were found there."""

    requests = hits = 0

    def count(self, event: str, **_: Any) -> None:
        self.requests += event == "/jax/compilation_cache/compile_requests_use_cache"
        self.hits += event == "/jax/compilation_cache/cache_hits"


_events = _Events()
jax.monitoring.register_event_listener(_events.count)


def _path(of: str, arguments: list[Any]) -> Path | None:
    """Where the program is, if it is kept; None where nothing is."""
    settings = jax.config.values
    folder = settings["jax_compilation_cache_dir"]
    if not folder or not settings["jax_enable_compilation_cache"]:
        return None
    parts = (_surroundings(), _settings(), of, *map(_kind, arguments))
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Path(folder) / "ezm" / name


def _kind(array: Any) -> str:
    return f"{jnp.result_type(array)}{jnp.shape(array)}{getattr(array, 'weak_type', False)}"


@lru_cache
def _surroundings() -> str:
    """Source, libraries and processor, which stay while a process runs."""
    folder = Path(__file__).parent
    source = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        source.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    device = jax.devices()[0]
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    return "\n".join(
        [source.hexdigest(), *libraries, device.device_kind, device.client.platform_version, _cpu()]
    )


def _cpu() -> str:
    """The processor and what it can do: a folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _settings() -> str:
    """JAX's own, and what XLA reads: it compiles for so many threads."""
    variables = [os.environ.get(name) for name in ("XLA_FLAGS", "NPROC", "PJRT_NPROC")]
    return f"{sorted(jax.config.values.items())} {variables} {os.cpu_count()}"


def _read(path: Path, arguments: Any) -> Any | None:
    """The program in a file; None where there is none, or it is not whole, or cannot be used here."""
    # Whatever is wrong with it, the program can be made again.
    with contextlib.suppress(Exception):
        saved = path.read_bytes()
        digest, content = saved[:_DIGEST], saved[_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            return None
        program, results = pickle.loads(content)
        found = serialize_executable.deserialize_and_load(
            program, arguments, results, execution_devices=jax.devices()[:1]
        )
        os.utime(path)
        return found
    return None


def _write(path: Path, compiled: Any) -> None:
    """Keep a program, if it can be; a process that is killed meanwhile leaves no half of it under its name."""
    with contextlib.suppress(Exception):
        program, _, results = serialize_executable.serialize(compiled)
        content = pickle.dumps((program, results))
        if pickle.loads(content)[1] != results:  # modules do not come back as they were
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=path.parent
        ) as folder:  # gone if the disk is full, too
            whole = Path(folder) / path.name
            whole.write_bytes(hashlib.sha256(content).digest() + content)
            whole.replace(path)
        for old in sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime)[:-_KEPT]:
            old.unlink()
