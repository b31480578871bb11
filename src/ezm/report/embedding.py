"""The task embeddings of an agent's last checkpoint, read without the rest of the agent."""

from __future__ import annotations

import numpy as np

from ezm.runs.folder import RunFolder

_NAME = "model.task_embedding"


def task_embeddings(run: RunFolder) -> tuple[int, np.ndarray] | None:
    """Returns the last checkpoint's environment steps per task, and its task embeddings (K, E) as the networks see
    them.

    Returns None if there is no checkpoint, or if the networks do not know the task.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    model = run.config.get("model", {})
    found = run.latest_checkpoint((f"agent/learner/{_NAME}",))
    if found is None or not model.get("task_embedding", True):
        return None
    embedding = found.arrays["agent"]["learner"][_NAME].astype(float)
    # The same computation as in WorldModel.context.
    embedding = model.get("task_embedding_scale", 1.0) * embedding
    norm = np.linalg.norm(embedding, axis=-1, keepdims=True)
    return found.step, embedding / np.maximum(norm, 1.0)
