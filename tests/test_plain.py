"""A configuration that was edited by hand: what is not of its type is named, nothing is guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ezm.config import from_dict, to_dict
from ezm.config.presets import PRESETS
from ezm.config.validation import check
from ezm.errors import UserError


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_configuration_comes_back(preset: str) -> None:
    plain = json.loads(json.dumps(to_dict(PRESETS[preset])))
    assert from_dict(plain) == PRESETS[preset]


def edited(name: str, value: Any) -> dict[str, Any]:
    plain = json.loads(json.dumps(to_dict(PRESETS["cpu"])))
    group, _, last = name.rpartition(".")
    (plain[group] if group else plain)[last] = value
    return plain


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("planner.simulations", 1.5, "a whole number"),
        ("planner.simulations", True, "a whole number"),
        ("planner.simulations", None, "a whole number"),
        ("loss.consistency", "nosuch", "one of cosine, mse"),
        ("planner.considered_actions", "4", "a whole number or null"),
        ("model.latent_size", "64", "a whole number"),
        ("model.latent_norm", 1, "true or false"),
        ("model.value_range", [1], "a list of 2 numbers or null"),
        ("model.value_range", [1, "2"], "a list of 2 numbers or null"),
        ("model.log_std_range", None, "a list of 2 numbers"),
        ("optimizer.learning_rate", "fast", "a number"),
        ("optimizer.learning_rate", False, "a number"),
        ("model", None, "a group of options"),
        ("loss", 3, "a group of options"),
        ("suite", 5, "a text"),
        ("meshes", 5, "a text or null"),
    ],
)
def test_a_value_of_another_type_is_named(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as error:
        from_dict(edited(name, value))
    assert f"has {name} {value!r}, it must be {expected}: restore config.json" in str(error.value)


def test_another_kind_of_number_and_null_are_taken() -> None:
    assert from_dict(edited("optimizer.learning_rate", 1)).optimizer.learning_rate == 1
    assert from_dict(edited("model.value_range", [0, 1.5])).model.value_range == (0, 1.5)
    assert from_dict(edited("loss.discount", None)).loss.discount is None


@pytest.mark.parametrize("name", ["suite", "steps", "model"])
def test_what_every_version_wrote_has_to_be_there(name: str) -> None:
    plain = to_dict(PRESETS["cpu"])
    del plain[name]
    with pytest.raises(UserError, match=f"the configuration has no {name}: restore config.json"):
        from_dict(plain)


def test_what_an_older_version_did_not_write_has_its_default() -> None:
    plain = to_dict(PRESETS["cpu"])
    del plain["devices"], plain["model"]["bins"]
    assert from_dict(plain).devices == 1


def test_an_unknown_name_is_of_another_version() -> None:
    with pytest.raises(UserError, match="'planner.depth', unknown to this version of ezm"):
        from_dict(edited("planner.depth", 3))


@pytest.mark.parametrize("value", [-1, 0])
def test_a_value_that_cannot_work_is_refused(value: int) -> None:
    with pytest.raises(UserError, match=f"--planner.simulations {value}: must be greater than 0"):
        check(from_dict(edited("planner.simulations", value)), 1)


def test_a_value_without_end_is_refused() -> None:
    config = from_dict(edited("updates_per_step", float("inf")))
    with pytest.raises(UserError, match="--updates-per-step inf: must be finite and greater"):
        check(config, 1)
