"""A cache of compiled programs, from which a later process loads them without tracing.

JAX's own cache looks a program up by the result of tracing, and tracing takes seconds of Python at every start. This
cache looks a program up by the inputs of tracing. These are the source of this package, the versions of the libraries,
the processor, JAX's settings, the program's name and its arguments. The files lie in the folder ``ezm`` of JAX's cache.
Where JAX's cache is switched off, nothing is kept. As in JAX's cache, the files are code, so only their owner should be
able to write there.
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
"""Number of programs kept, the most recently used. Each has 0.1 to 3 MB in the preset ``cpu``."""
_DIGEST = hashlib.sha256().digest_size
_LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "numpy")


class Prepared(NamedTuple):
    """A program that was found in the cache, or was traced and has yet to be compiled."""

    out_info: Any
    """Shapes and dtypes of the program's results."""
    compile: Callable[[], Any]
    """Returns the program. It compiles first if the cache did not hold the program."""


def prepare(
    function: Callable[..., Any],
    *arguments: Any,
    of: str,
    static: tuple[Any, ...] = (),
    **options: Any,
) -> Prepared:
    """Returns the program of ``jax.jit(function, **options).lower(*arguments, *static)``, from the cache if possible.

    Args:
        function: runs on one device. Its program is kept if it returns arrays in tuples, lists, dictionaries and
            named tuples.
        arguments: arrays, or their shapes and dtypes.
        of: names the program and everything that its function closes over. Functions that trace differently need
            different names.
        static: arguments after the others, for which the program is specialised.
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

    # The name keeps JAX's cache from finding the program, unless it was kept there before and is gone here.
    named.__name__ = f"ezm_{path.name[:16]}"
    lowered = jax.jit(named, **options).lower(*arguments, *static)

    def compile() -> Any:
        before = _events.hits, _events.requests
        compiled = lowered.compile()
        # A program that came from JAX's cache cannot be serialised again: it would lack its code (JAX 0.10).
        if _events.hits == before[0] and _events.requests > before[1]:
            _write(path, compiled)
        return compiled

    return Prepared(lowered.out_info, compile)


class _Events(threading.local):
    """This thread's compilation requests while JAX's cache is on, and the hits among them."""

    requests = hits = 0

    def count(self, event: str, **_: Any) -> None:
        self.requests += event == "/jax/compilation_cache/compile_requests_use_cache"
        self.hits += event == "/jax/compilation_cache/cache_hits"


_events = _Events()
jax.monitoring.register_event_listener(_events.count)


def _path(of: str, arguments: list[Any]) -> Path | None:
    """Returns the path of the program's file, or None where JAX's cache is switched off."""
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
    """Returns the source's hash, the libraries and the processor, which are constant within a process."""
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
    """Returns the processor's model and features, because several machines may share a folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _settings() -> str:
    """Returns JAX's settings, the variables that XLA reads, and the number of threads that it compiles for."""
    variables = [os.environ.get(name) for name in ("XLA_FLAGS", "NPROC", "PJRT_NPROC")]
    return f"{sorted(jax.config.values.items())} {variables} {os.cpu_count()}"


def _read(path: Path, arguments: Any) -> Any | None:
    """Returns the program in a file, or None where the file is missing, damaged or unusable here."""
    # Any failure is harmless: the program can be compiled again.
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
    """Writes a program, if it can be serialised, and removes the oldest ones.

    A kill leaves no partial file under the program's name.
    """
    with contextlib.suppress(Exception):
        program, _, results = serialize_executable.serialize(compiled)
        content = pickle.dumps((program, results))
        if pickle.loads(content)[1] != results:  # modules do not survive pickling unchanged
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
