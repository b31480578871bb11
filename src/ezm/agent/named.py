"""Trees of arrays as dictionaries by name, and back.

A name is an array's place in the tree, such as ``model.policy_head.hidden.0.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(place, simple=True, separator="."): leaf for place, leaf in leaves}


def filled(like: Any, arrays: Mapping[str, Any]) -> Any:
    """Returns a tree of the same structure as ``like`` with the arrays that :func:`named` returned.

    Raises:
        ValueError: as :func:`compare`.
    """
    places = named(like)
    compare(places, arrays)
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in places])


def compare(expected: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Compares the names and shapes of arrays.

    Raises:
        ValueError: they differ. The message names the first array that does.
    """
    for name in [*expected, *saved]:
        then, now = (
            f"has the shape {np.shape(arrays[name])}" if name in arrays else "is missing"
            for arrays in (saved, expected)
        )
        if then != now:
            raise ValueError(f"{name} {then} in the checkpoint and {now} now")
