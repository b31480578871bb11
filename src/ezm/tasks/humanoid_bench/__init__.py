"""HumanoidBench (Sferrazza et al., 2024) on current MuJoCo: the 23 tasks of the EfficientZero-Multitask paper.

>>> batch = Batch.of(["h1-walk", "h1-run"], seed=0, threads=2)
>>> observation = batch.reset()
>>> batch.step(actions)  # into batch.observation, batch.reward, batch.terminated, batch.terms

Once ``ezm`` has been imported, Gymnasium knows the tasks as ``ezm/h1-walk-v0`` and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ezm.tasks.humanoid_bench.catalog import EPISODE_STEPS, NAMES, SUITES, success_bar

if TYPE_CHECKING:
    from ezm.tasks.humanoid_bench.batch import Batch, Environment

__all__ = ["EPISODE_STEPS", "NAMES", "SUITES", "Batch", "Environment", "register", "success_bar"]


def __getattr__(name: str) -> Any:
    # MuJoCo takes a second to import, and names and success bars do not need it.
    if name in ("Batch", "Environment"):
        from ezm.tasks.humanoid_bench import batch

        return getattr(batch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Registers all tasks with Gymnasium, as ``ezm/h1-walk-v0``. Importing ``ezm`` calls this function."""
    import gymnasium

    for name in NAMES:
        gymnasium.register(
            id=f"ezm/{name}-v0",
            entry_point="ezm.tasks.humanoid_bench.gym:HumanoidEnv",
            vector_entry_point="ezm.tasks.humanoid_bench.gym:HumanoidVectorEnv",
            max_episode_steps=EPISODE_STEPS,
            kwargs={"task": name},
        )
