"""Checkpoints: they come back bit for bit, and survive damage, a full disk and kills."""

import gc
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections import namedtuple
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ezm.errors import UserError
from ezm.experience.rows import Deferred
from ezm.runs.checkpoints import FORMAT, MANIFEST, Checkpoint, Saved
from ezm.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {})


def some_arrays(value: int) -> dict:
    return {
        "parameters": {
            "dense.0": {"w": np.full((3, 4), value, np.float32), "b": np.zeros((0, 4))},
            "names": np.array(["stand", "é"]),
        },
        "optimizer": {"count": np.array(value, np.int32), "moments": {"mu": np.arange(5.0)}},
        "replay": {"done": np.array([True, False]), "count": np.array(2**40 + value)},
        "key": {"data": np.array([1, 2**32 - 1], np.uint32)},
        "pending": {},
    }


def one(array: object) -> dict:
    """The least that can be saved."""
    return {"agent": {"a": array}}


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def test_checkpoints_come_back_exactly_and_the_last_two_stay(run: RunFolder) -> None:
    assert run.latest_checkpoint() is None
    for step in (0, 500, 1000, 12_000):
        run.save_checkpoint(step, some_arrays(step), {"updates": 2 * step, "rng": [1, "x"]})
    assert run.checkpoint_steps() == [1000, 12_000]
    found = RunFolder.open(run.path).latest_checkpoint()
    assert found is not None and found.step == 12_000
    assert found.meta == {"updates": 24_000, "rng": [1, "x"]}
    assert_same(found.arrays, some_arrays(12_000))


def test_jax_arrays_restore_as_numpy(run: RunFolder) -> None:
    run.save_checkpoint(1, {"agent": {"a": jnp.arange(3), "b": np.float32(2), "c": 3}}, {})
    found = run.latest_checkpoint()
    assert found is not None
    expected = {"a": np.arange(3, dtype=np.int32), "b": np.array(2, np.float32), "c": np.array(3)}
    assert_same(found.arrays, {"agent": expected})


def test_the_layout_is_plain(run: RunFolder) -> None:
    """Numpy and JSON read it without ezm."""
    run.save_checkpoint(12_000, some_arrays(7), {"updates": 3})
    folder = run.checkpoints_path / "000012000"
    parts = [f"{part}.npz" for part in some_arrays(7)]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*parts, "meta.json", MANIFEST])
    with np.load(folder / "parameters.npz") as file:
        assert file.files == ["dense.0/w", "dense.0/b", "names"]
        np.testing.assert_array_equal(file["dense.0/w"], np.full((3, 4), 7, np.float32))
    assert json.loads((folder / "meta.json").read_text()) == {"updates": 3}
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["format"] == 1 and manifest["files"].keys() == {*parts, "meta.json"}


def test_a_part_is_read_without_the_rest(run: RunFolder) -> None:
    run.save_checkpoint(3, some_arrays(3), {"n": 3})
    flip_a_bit(run.checkpoints_path / "000000003" / "replay.npz", 1000)
    found = run.latest_checkpoint(["parameters/dense.0/", "optimizer/count"])
    assert found is not None and (found.step, found.meta) == (3, {"n": 3})
    whole = some_arrays(3)
    expected = {
        "parameters": {"dense.0": whole["parameters"]["dense.0"]},
        "optimizer": {"count": whole["optimizer"]["count"]},
    }
    assert_same(found.arrays, expected)


def test_deferred_arrays_come_one_at_a_time(run: RunFolder) -> None:
    """No array is alive any more when the next one is asked for."""
    alive: list[weakref.ref] = []

    def read(value: int) -> np.ndarray:
        gc.collect()
        assert not [ref for ref in alive if ref() is not None], "an array was kept"
        array = np.full((100, 3), value, np.float16)
        alive.append(weakref.ref(array))
        return array

    kind = np.dtype(np.float16)
    content = {str(value): Deferred((100, 3), kind, partial(read, value)) for value in range(5)}
    run.save_checkpoint(1, {"replay": {"content": content, "rows": np.arange(5)}}, {})
    found = run.latest_checkpoint()
    assert found is not None and len(alive) == 5
    expected = {str(value): np.full((100, 3), value, kind) for value in range(5)}
    assert_same(found.arrays, {"replay": {"content": expected, "rows": np.arange(5)}})


def damage_nothing_written(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def damage_truncated(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def damage_array_lost(path: Path) -> None:
    (path / "parameters.npz").unlink()


def damage_meta_lost(path: Path) -> None:
    (path / "meta.json").unlink()


def damage_manifest_lost(path: Path) -> None:
    (path / MANIFEST).unlink()


DAMAGES = [
    damage_nothing_written,
    damage_truncated,
    damage_array_lost,
    damage_meta_lost,
    damage_manifest_lost,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(
    run: RunFolder, damage, caplog: pytest.LogCaptureFixture
) -> None:
    run.save_checkpoint(1, some_arrays(1), {"n": 1})
    run.save_checkpoint(2, some_arrays(2), {"n": 2})
    damage(run.checkpoints_path / "000000002")
    found = run.latest_checkpoint()
    assert "000000002 is broken, passed over: " in caplog.text
    assert found is not None and (found.step, found.meta) == (1, {"n": 1})
    assert_same(found.arrays, some_arrays(1))

    damage(run.checkpoints_path / "000000001")
    with pytest.raises(UserError, match="no checkpoint can be read"):
        run.latest_checkpoint()
    assert "000000001 is broken" in caplog.text


def test_going_on_from_an_earlier_checkpoint_replaces_the_later_ones(run: RunFolder) -> None:
    for step in (10, 20):
        run.save_checkpoint(step, some_arrays(step), {})
    damage_truncated(run.checkpoints_path / "000000020")
    (run.checkpoints_path / "000000030.xyz.tmp" / "new").mkdir(parents=True)
    run.save_checkpoint(15, some_arrays(15), {})
    assert sorted(p.name for p in run.checkpoints_path.iterdir()) == ["000000010", "000000015"]
    run.save_checkpoint(15, some_arrays(16), {})
    found = run.latest_checkpoint()
    assert found is not None and found.step == 15
    assert_same(found.arrays, some_arrays(16))
    run.save_checkpoint(15, some_arrays(17), {})
    found = run.latest_checkpoint()
    assert found is not None and found.step == 15
    assert_same(found.arrays, some_arrays(17))
    assert run.checkpoint_steps() == [10, 15] and len(list(run.checkpoints_path.iterdir())) == 2


def loaded(run: RunFolder) -> Checkpoint:
    """The newest checkpoint. No other is passed over for it, because a warning would be an error."""
    found = run.latest_checkpoint()
    assert found is not None
    return found


@pytest.mark.parametrize("elements", [1, 1000, 1_000_003])
def test_every_dtype_comes_back_bit_for_bit(run: RunFolder, elements: int) -> None:
    check_dtypes(run, elements)


@pytest.mark.slow
def test_two_hundred_megabytes_come_back_bit_for_bit(run: RunFolder) -> None:
    check_dtypes(run, 200_000_000 // 8)


def check_dtypes(run: RunFolder, elements: int) -> None:
    random_bytes = np.random.default_rng(elements).bytes(8 * elements)
    arrays = {
        # Random bits make every kind of NaN; a bool is 0 or 1.
        dtype: np.frombuffer(random_bytes, dtype)[:elements]
        for dtype in ("uint8", "int64", "float64", "float32", "float16")
    }
    arrays["bool"] = arrays["uint8"] % 2 == 1
    run.save_checkpoint(1, {"agent": arrays}, {})
    found = loaded(run).arrays["agent"]
    assert found.keys() == arrays.keys()
    for dtype, array in arrays.items():
        assert (found[dtype].dtype, found[dtype].shape) == (np.dtype(dtype), (elements,))
        assert np.array_equal(found[dtype].view(np.uint8), array.view(np.uint8)), dtype


@pytest.mark.parametrize(
    "part",
    [
        {"a": np.array([None])},
        {"a": jnp.zeros(2, jnp.bfloat16)},  # would come back as bytes
        {"a": {"b/c": np.zeros(2)}},
    ],
    ids=["objects", "bfloat16", "slash"],
)
def test_what_would_not_come_back_is_refused(run: RunFolder, part: dict) -> None:
    run.save_checkpoint(1, some_arrays(1), {})
    with pytest.raises(ValueError, match="cannot be saved"):
        run.save_checkpoint(2, {"agent": part}, {})
    assert_same(loaded(run).arrays, some_arrays(1))


def test_a_save_tells_its_size_and_time(run: RunFolder) -> None:
    before = time.monotonic()
    saved = run.save_checkpoint(7, one(np.zeros(500_000)), {})
    assert isinstance(saved, Saved) and saved.step == 7
    files = [file for file in run.checkpoints_path.rglob("*") if file.is_file()]
    assert saved.bytes == sum(file.stat().st_size for file in files) > 4_000_000
    assert 0 < saved.seconds <= time.monotonic() - before


# -- damage ----------------------------------------------------------------------------------


def flip_a_bit(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)


def test_one_flipped_bit_anywhere_is_found_and_its_file_named(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run.save_checkpoint(1, some_arrays(1), {"n": 1})
    run.save_checkpoint(2, some_arrays(2), {"n": 2})
    newest = run.checkpoints_path / "000000002"
    files = [file for file in newest.rglob("*") if file.is_file() and file.name != MANIFEST]
    assert len(files) > 3
    rng = random.Random(0)
    for file in files:
        bit = rng.randrange(8 * file.stat().st_size)
        flip_a_bit(file, bit)
        name = file.relative_to(newest)
        caplog.clear()
        found = run.latest_checkpoint()
        assert re.search(f"000000002 is broken.*: {name} is damaged", caplog.text)
        assert found is not None and found.step == 1
        flip_a_bit(file, bit)
    assert loaded(run).step == 2


def test_a_flipped_bit_in_the_largest_file_is_found(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run.save_checkpoint(1, one(np.random.default_rng(0).standard_normal(500_000)), {})
    files = (file for file in run.checkpoints_path.rglob("*") if file.is_file())
    largest = max(files, key=lambda file: file.stat().st_size)
    flip_a_bit(largest, 4 * largest.stat().st_size)
    with pytest.raises(UserError):
        run.latest_checkpoint()
    assert largest.name in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": {"a": 1}}'])
def test_a_damaged_manifest_is_named(
    run: RunFolder, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    run.save_checkpoint(1, some_arrays(1), {})
    (run.checkpoints_path / "000000001" / MANIFEST).write_text(text)
    with pytest.raises(UserError):
        run.latest_checkpoint()
    assert "manifest.json is damaged" in caplog.text


def test_a_newer_format_is_told(run: RunFolder) -> None:
    run.save_checkpoint(1, some_arrays(1), {})
    manifest = run.checkpoints_path / "000000001" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": FORMAT + 1}))
    with pytest.raises(UserError, match=f"checkpoint format {FORMAT + 1}.*update ezm"):
        run.latest_checkpoint()


# -- a full disk -----------------------------------------------------------------------------


def test_too_little_space_is_told_beforehand(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    run.save_checkpoint(1, some_arrays(1), {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 3_000_000))
    message = (
        r"cannot write checkpoint 2 to .*checkpoints: no space left "
        rf"\(4\.0 MB needed, 3\.0 MB free\): free space, then --resume {run.path}$"
    )
    with pytest.raises(UserError, match=message):
        run.save_checkpoint(2, one(np.zeros(500_000)), {})
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["000000001"]
    run.save_checkpoint(2, one(np.zeros(300_000)), {})
    assert loaded(run).step == 2


SAVE_WITHOUT_SPACE = """
import json, shutil, resource, sys
from pathlib import Path
import numpy as np
from ezm.errors import UserError
from ezm.runs.folder import RunFolder

def save(step, bytes):
    arrays = {"a": np.full(bytes // 8, step, np.int64), "b": np.ones(3)}
    run.save_checkpoint(step, {"agent": arrays}, {})

run = RunFolder.create(Path(sys.argv[1]) / "run", {})
limit = int(sys.argv[2])
save(1, 2**20)
save(2, 2**20)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
# The arrays alone would just fit into the space.
bytes = 2 * limit or shutil.disk_usage(run.path).free - 8192
errors = []
for _ in range(2):
    try:
        save(3, bytes)
    except UserError as error:
        errors.append(str(error))
left = sorted(path.name for path in run.checkpoints_path.iterdir())
step, arrays, _ = run.latest_checkpoint()
same = bool((arrays["agent"]["a"] == 2).all())
save(4, limit // 2 or 2**20)
print(json.dumps([errors, left, step, same, run.latest_checkpoint().step]))
"""


def save_without_space(run: RunFolder, before: list[str], limit: int) -> list[str]:
    """Checkpoints 1 and 2 are saved, 3 twice fails, 4 has space again. Returns the two errors."""
    result = subprocess.run(
        [*before, sys.executable, "-c", SAVE_WITHOUT_SPACE, str(run.path), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    errors, *others = json.loads(result.stdout)
    assert others == [["000000001", "000000002"], 2, True, 4]
    return errors


def test_a_file_that_may_not_grow_is_one_line_and_costs_no_checkpoint(run: RunFolder) -> None:
    errors = save_without_space(run, [], 2**22)
    assert len(errors) == 2
    for error in errors:
        assert "cannot write checkpoint 3 to" in error and "file too large (8.4 MB" in error
        assert error.endswith(f"(ulimit -f), then --resume {run.path / 'run'}")


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(run: RunFolder) -> None:
    errors = save_without_space(run, small_disk(run.path, megabytes=16), 0)
    assert len(errors) == 2
    for error in errors:
        assert "cannot write checkpoint 3 to" in error and "no space left (" in error
        assert error.endswith(f": free space, then --resume {run.path / 'run'}")


def small_disk(path: Path, megabytes: int) -> list[str]:
    """What to put before a command for it to see an empty disk of that size at `path`."""
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs "{path}" && exec "$@"'
    before = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    try:
        subprocess.run([*before, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a small disk")
    return before


# -- kills -----------------------------------------------------------------------------------


def save_until_killed(path: Path, first: int, announce: Connection) -> None:
    run = RunFolder.open(path)
    announce.send(first - 1)
    for n in count(first):
        # Every step is saved twice, as at the end of a run.
        run.save_checkpoint(n // 2, contents(n), {"n": n})
        announce.send(n)


def contents(n: int) -> dict[str, dict[str, np.ndarray]]:
    return {"replay": {"a": np.full(500_000, n)}, "agent": {"b": np.full(7, n, np.float32)}}


def test_kills_at_any_moment_lose_nothing_that_was_complete(run: RunFolder) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ezm.runs.folder"])
    rng = random.Random(0)
    complete, interrupted = -1, 0
    for _ in range(10):
        receiver, sender = context.Pipe(duplex=False)
        saver = context.Process(target=save_until_killed, args=(run.path, complete + 1, sender))
        saver.start()
        sender.close()
        receiver.recv()
        time.sleep(rng.uniform(0.05, 0.8))
        saver.kill()
        saver.join()
        with pytest.raises(EOFError):
            while True:
                complete = receiver.recv()
        interrupted += any(run.checkpoints_path.glob("*.tmp"))
        found = loaded(run) if run.checkpoint_steps() else None
        if found is None:
            assert complete == -1
            continue
        # The last save may have been killed between its completion and its announcement.
        assert found.meta["n"] in (complete, complete + 1) and found.step == found.meta["n"] // 2
        assert_same(found.arrays, contents(found.meta["n"]))
        complete = found.meta["n"]
    assert complete > 0 and interrupted > 0
    run.save_checkpoint(complete // 2 + 1, contents(complete), {})
    assert len(list(run.checkpoints_path.iterdir())) == 2, "the leftovers are gone"
