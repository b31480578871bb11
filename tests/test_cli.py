"""The command line: options, presets, mistakes, and a run that is stopped, resumed and evaluated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ezm.cli
from ezm import platform
from ezm.acting.results import read_evaluations
from ezm.cli.terminal import print_results, print_table
from ezm.config import TrainConfig, from_dict, to_dict
from ezm.config.presets import PRESETS, defaults
from ezm.report import reference
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger, read_metrics
from ezm.training import session

TINY = """
    --random-steps 30 --evaluate-every 1000 --evaluation-episodes 1 --final-episodes 1
    --planner.simulations 4 --planner.root-actions 4 --planner.policy-actions 2
    --model.latent-size 16 --optimizer.batch-size 8 --loss.unroll 2 --loss.n-step 2
    --planner.leaf-rollout 0 --loss.path-weight 0 --updates-per-step 1
"""


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in this process leave its variables and JAX alone, and write here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platform, "prepare_jax", lambda device: None)
    monkeypatch.setattr(platform, "has_gpu", lambda: False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, Path]]:
    """The calls with which `ezm train` would train. Nothing is trained."""
    calls: list[tuple[TrainConfig, Path]] = []

    def train(config: TrainConfig, path: Path, display: Any, **_: object) -> bool:
        display(["a-task"], config.steps)
        calls.append((config, path))
        return False

    monkeypatch.setattr(session, "train", train)
    return calls


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error of a command that must fail as a user's mistake."""
    capsys.readouterr()
    assert ezm.cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def new_run(path: Path, **changes: Any) -> RunFolder:
    return RunFolder.create(path, to_dict(replace(PRESETS["cpu"], **changes)))


# -- options and presets -----------------------------------------------------------------------


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm.cli.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"ezm {command}" in listed for command in ezm.cli.COMMANDS)
    assert ezm.cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ezm {ezm.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        ezm.cli.main(["train", "--help"])
    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    assert "--steps" in help_text and "Ablations" in help_text


def test_options_override_the_preset(started: list[tuple[TrainConfig, Path]]) -> None:
    ezm.cli.main(["train", "walker", "--steps", "5000", "--model.latent-size=96", "--seed", "3"])
    cpu = defaults("cpu", "walker")
    expected = replace(
        cpu, suite="walker", steps=5000, seed=3, model=replace(cpu.model, latent_size=96)
    )
    assert started[0][0] == expected
    assert started[0][1].parent == Path("runs")
    assert started[0][1].name.startswith("walker-cpu-s3-")


@pytest.mark.parametrize(
    ("arguments", "suite", "steps", "latent"),
    [
        ("walker", "walker", 20_000, 128),
        ("--seed 1 cartpole", "cartpole", 3_000, 64),
        ("--out walker cartpole", "cartpole", 3_000, 64),
        ("--out walker dmc:walker-walk", "dmc:walker-walk", 10_000, 64),
        ("mixed", "mixed", 10_000, 128),
    ],
)
def test_the_cpu_preset_has_the_size_of_its_suite(
    started: list[tuple[TrainConfig, Path]], arguments: str, suite: str, steps: int, latent: int
) -> None:
    ezm.cli.main(["train", *arguments.split()])
    config = started[0][0]
    assert (config.suite, config.steps, config.model.latent_size) == (suite, steps, latent)


@pytest.mark.parametrize(
    ("suite", "steps"),
    [("walker", "20000"), ("h1-walk", "100000"), ("hb:h1-run,h1-walk", "100000")],
)
def test_help_shows_the_defaults_of_the_suite(
    suite: str, steps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ezm.cli.main(["train", suite, "--help"])
    assert steps in capsys.readouterr().out


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("walker", "cpu for the suite walker (with a latent of 64 its returns stop rising)"),
        ("h1", "cpu for the suite h1 (humanoids, and the large rewards of the maze)"),
        ("h1-walk", "cpu for HumanoidBench's tasks (humanoids move in 19 dimensions and more)"),
        ("hb:h1hand-sit_hard,h1-run", "cpu for HumanoidBench's tasks (humanoids move in 19"),
        ("dmc:walker-walk", "cpu for a suite without its own (sizes that learn within minutes"),
        ("walker --preset paper", "paper for every suite, docs/presets.md"),
    ],
)
def test_train_says_first_where_its_defaults_come_from(
    started: list[tuple[TrainConfig, Path]],
    suite: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ezm.cli.main(["train", *suite.split()])
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(f"defaults: preset {said}") and line.endswith(", docs/presets.md")


def test_a_refused_training_says_nothing_but_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm.cli.main(["train", "cartpole,no-such-task"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "no-such-task" in said.err and len(said.err.splitlines()) == 1


def test_the_paper_preset_says_how_large_it_is(
    started: list[tuple[TrainConfig, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    ezm.cli.main(["train", "walker", "--optimizer.batch-size", "32", "--preset", "paper"])
    paper = PRESETS["paper"]
    expected = replace(paper, suite="walker", optimizer=replace(paper.optimizer, batch_size=32))
    assert started[0][0] == expected
    assert "16M" in capsys.readouterr().out


def test_with_a_gpu_the_default_is_the_paper_preset(
    started: list[tuple[TrainConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "has_gpu", lambda: True)
    ezm.cli.main(["train", "walker"])
    ezm.cli.main(["train", "walker", "--preset", "cpu"])
    ezm.cli.main(["train", "walker", "--device", "cpu"])
    assert [config.preset for config, _ in started] == ["paper", "cpu", "cpu"]


def test_windows_per_task_decide_the_batch_size() -> None:
    """4 tasks of 8 windows a step, in 2 updates."""
    config = replace(defaults("cpu", "cartpole"), updates_per_step=2.0)
    config = replace(config, optimizer=replace(config.optimizer, windows_per_task=8))
    assert session.prepared(config)[0].optimizer.batch_size == 16


@pytest.mark.parametrize(
    ("option", "part", "expected"),
    [
        ("--model.no-task-embedding", "model", {"task_embedding": False}),
        ("--replay.no-per-task", "replay", {"per_task": False}),
        ("--loss.consistency-weight 0", "loss", {"consistency_weight": 0.0}),
        ("--loss.path-weight 0", "loss", {"path_weight": 0.0}),
        ("--loss.value-target mixed", "loss", {"value_target": "mixed"}),
        ("--loss.value-target search", "loss", {"value_target": "search"}),
    ],
)
def test_an_ablation_is_one_option(
    started: list[tuple[TrainConfig, Path]], option: str, part: str, expected: dict[str, Any]
) -> None:
    ezm.cli.main(["train", "cartpole", *option.split()])
    cpu = defaults("cpu", "cartpole")
    assert started[0][0] == replace(cpu, **{part: replace(getattr(cpu, part), **expected)})


def test_demo_trains_the_cpu_preset_on_cartpole(started: list[tuple[TrainConfig, Path]]) -> None:
    ezm.cli.main(["demo", "--seed", "2"])
    assert started[0][0] == replace(defaults("cpu", "cartpole"), suite="cartpole", seed=2)
    assert started[0][1].name.startswith("demo-")


def test_tasks_lists_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm.cli.main(["tasks", "cartpole", "dmc:walker-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("dmc:cartpole-" in line for line in lines) == 4
    assert any(line.split()[:4] == ["dmc:walker-run", "walker-run", "24", "6"] for line in lines)


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["task"], [["gym:package:Id-v0"], ["[bold]"]])
    assert capsys.readouterr().out.split() == ["task", "gym:package:Id-v0", "[bold]"]


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("tran cartpole", "unknown command 'tran' (did you mean train?)"),
        ("train cartpole --model.latnt-size 3", "(did you mean --model.latent-size?)"),
        ("train cartpole --latent-size 3", "(did you mean --model.latent-size?)"),
        ("train cartpole --episodes=3", "unknown option --episodes"),
        ("train", "Missing from ezm train: SUITE"),
        ("train cartpole --steps many", "--steps: invalid literal for int() with base 10: 'many'"),
        ("train cartpole --steps", "Missing value for argument '--steps'"),
        ("train cartpole --preset big", "'big' for argument '--preset'"),
        ("train cartpole walker", "walker"),
        ("train cartpol", "unknown suite or task 'cartpol' (did you mean cartpole?)"),
        ("train cartpole --steps -5", "--steps -5: must be greater than 0"),
        ("train cartpole --steps 200", "--steps 200: must exceed --random-steps 200"),
        ("train cartpole --model.latent-size 0", "--model.latent-size 0: must be greater than 0"),
        (
            "train cartpole --model.action-code-size -1",
            "--model.action-code-size -1: must be greater than 0",
        ),
        ("train cartpole --model.blocks -1", "--model.blocks -1: must not be negative"),
        ("train cartpole --planner.leaf-rollout -1", "leaf-rollout -1: must not be negative"),
        ("train cartpole --model.value-range 2 1", "(2.0, 1.0): must begin below its end"),
        (
            "train cartpole --optimizer.gradient-clip -5",
            "--optimizer.gradient-clip -5.0: must be greater than 0",
        ),
        (
            "train cartpole --optimizer.windows-per-task 4 --updates-per-step 0",
            "--updates-per-step 0.0: must be greater than 0",
        ),
        ("train cartpole --optimizer.batch-size 3", "--optimizer.batch-size 3: is less than the 4"),
        (
            "train cartpole --planner.considered-actions 0",
            "--planner.considered-actions 0: must be greater than 0",
        ),
        (
            "train cartpole --planner.gumbel-scale -1",
            "--planner.gumbel-scale -1.0: must not be negative",
        ),
        ("train cartpole --planner.spread 0", "--planner.spread 0.0: must be greater than 0"),
        ("train cartpole --loss.unroll -1", "--loss.unroll -1: must not be negative"),
        ("train cartpole --noise -0.1", "--noise -0.1: must not be negative"),
        ("train cartpole --noise inf", "--noise inf: must be finite"),
        ("train cartpole --loss.reward-weight nan", "--loss.reward-weight nan: must be finite"),
        ("train cartpole --model.value-range -inf 5", "(-inf, 5.0): must be finite"),
        ("train cartpole --acting sample", "'sample' for argument '--acting'"),
        (
            "train cartpole --model.q-heads 2",
            "--model.q-heads 2: and --loss.q.weight need each other",
        ),
        (
            "train cartpole --loss.q.weight 1",
            "--model.q-heads 0: and --loss.q.weight need each other",
        ),
        ("train cartpole --loss.q.weight -1", "--loss.q.weight -1.0: must not be negative"),
        (
            "train cartpole --loss.actor.weight 1",
            "--loss.actor.weight 1.0: needs Q: add --model.q-heads",
        ),
        ("train cartpole --planner.refine.actions 2", "--planner.refine.actions 2: needs Q"),
        ("train cartpole --planner.refine.actions 17", "must be at most root-actions = 16"),
        (
            "train cartpole --planner.mppi.rounds -1",
            "--planner.mppi.rounds -1: must not be negative",
        ),
        ("train cartpole --planner.mppi.samples 1", "--planner.mppi.samples 1: must be at least 2"),
        (
            "train cartpole --planner.mppi.temperature inf",
            "--planner.mppi.temperature inf: must be finite",
        ),
        (
            "train cartpole --planner.mppi.least-std 0",
            "--planner.mppi.least-std 0.0: must be greater than 0",
        ),
        (
            "train cartpole --loss.path-weight=-1",
            "--loss.path-weight -1.0: must not be negative",
        ),
        (
            "train cartpole --planner.refine.actions 2 --loss.policy-target prior",
            "--planner.refine.actions 2: does not go with --loss.policy-target prior",
        ),
        (
            "train cartpole --planner.mppi.rounds 2 --loss.policy-target prior",
            "--planner.mppi.rounds 2: does not go with --loss.policy-target prior",
        ),
        (
            "train cartpole --planner.refine.step 0",
            "--planner.refine.step 0.0: must be greater than 0",
        ),
        (
            "train cartpole --loss.actor.target-spread 0.1",
            "--loss.actor.target-spread 0.1: needs the policy gradient",
        ),
        (
            "train cartpole --acting policy --policy-episodes 0.3",
            "--policy-episodes 0.3: needs --acting search",
        ),
        (
            "train cartpole --loss.q.n-step 6",
            "--loss.q.n-step 6: must lie between 1 and n-step = 5",
        ),
        ("train cartpole --model.initial-log-std 3", "must lie between the bounds -2.0 and 0.5"),
        ("train cartpole --model.critic-size 0", "--model.critic-size 0: must be greater than 0"),
        ("train cartpole --optimizer.schedule-steps 0", "schedule-steps 0: must be greater than 0"),
        (
            "train cartpole --optimizer.windows-per-task 0",
            "windows-per-task 0: must be greater than 0",
        ),
        (
            "train cartpole --planner.evaluation-spread -1",
            "--planner.evaluation-spread -1.0: must not be negative",
        ),
        ("train cartpole --action-repeat 0", "--action-repeat 0: must be at least 1"),
        ("train --resume nothing", "nothing is not a run folder, it does not exist"),
        ("eval .", "is not a run folder, it holds no config.json"),
        ("eval . --episodes 0", "--episodes 0: must be at least 1"),
        ("report nothing", "nothing is not a run folder"),
        ("tasks dmc:walker-wlk", "(did you mean walker-walk?)"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    assert said in error(capsys, *arguments.split())


def test_an_output_folder_that_will_not_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    command = ["train", "dmc:cartpole-balance", "--out"]
    assert "cannot write to" in error(capsys, *command, "file/run")
    assert "is not empty" in error(capsys, *command, str(tmp_path))
    new_run(tmp_path / "run")
    assert "holds a run already" in error(capsys, *command, "run")


# -- going on with a run -----------------------------------------------------------------------


def test_resume_refuses_what_contradicts_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_run(tmp_path / "run", suite="walker", steps=500)
    command = ["train", "--resume", "run"]
    for options, said in (
        ("cartpole", "suite cartpole contradicts --resume: the run was started with walker"),
        ("--preset paper", "--preset paper contradicts --resume"),
        ("--model.blocks 7", "--model.blocks 7 contradicts --resume"),
        ("--model.value-range 0 5", "--model.value-range"),
        ("--steps 400", "--steps 400 contradicts --resume: the run has 500"),
        ("--out other", "--out other contradicts --resume"),
    ):
        assert said in error(capsys, *command, *options.split())


def test_a_run_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path / "run", suite="dmc:cartpole-balance")
    with run.lock():
        assert "is in use by process" in error(capsys, "train", "--resume", "run")


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: TrainConfig, path: Path, **_: object) -> bool:
        new_run(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "train", train)
    assert ezm.cli.main(["train", "cartpole", "--out", "my run"]) == 130
    assert capsys.readouterr().err == "stopped; go on with: ezm train --resume 'my run'\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
@pytest.mark.parametrize("arguments", ["--help", "tasks dmc:cartpole-balance", "train --help"])
def test_output_that_cannot_be_written_is_one_line(arguments: str) -> None:
    command = [sys.executable, "-m", "ezm", *arguments.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"


def test_results_stand_beside_random_actions_and_sac(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = {"cartpole": {"a": {"sac": 432.1, "steps": 90}, "b": {"sac": 321.0, "steps": 50}}}
    (tmp_path / "recorded.json").write_text(json.dumps(recorded))
    monkeypatch.setattr(reference, "RECORDED", tmp_path / "recorded.json")
    run = new_run(tmp_path / "run", suite="cartpole", steps=90)
    with MetricsLogger(run, tensorboard=False) as metrics:
        metrics.log("start", 0, 0.0, tasks=["a", "b"])
        for step, mode, value in ((0, "random", 10.0), (90, "search", 800.0)):
            for task in ("a", "b"):
                metrics.log("eval", step, 1.0, task=task, mode=mode, returns=[value, value + 2])
    print_results(tmp_path / "run")
    heading, first, second = capsys.readouterr().out.splitlines()[:3]
    assert heading.split("  ")[0] == "task" and heading.rstrip().endswith("SAC, same steps")
    assert first.split() == ["a", "11", "801", "±", "13", "432"]
    # Recorded at another number of steps: no fair comparison.
    assert second.split() == ["b", "11", "801", "±", "13", "-"]


def test_stop_resume_evaluate_report(tmp_path: Path) -> None:
    """A run in a process of its own: Ctrl-C, then more steps, then evaluation and report."""
    run = tmp_path / "run"
    environment = {**os.environ, "EZM_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    ezm_command = [sys.executable, "-m", "ezm"]
    training = subprocess.Popen(
        [
            *ezm_command,
            "train",
            "dmc:cartpole-balance",
            *TINY.split(),
            "--steps",
            "60",
            "--out",
            str(run),
        ],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert training.stdout is not None
    for line in training.stdout:
        if line.startswith("compiling"):
            training.send_signal(signal.SIGINT)
            break
    _, said = training.communicate()
    assert training.returncode == 130, said
    assert said.splitlines()[-1] == f"stopped; go on with: ezm train --resume {run}"
    assert RunFolder.open(run).checkpoint_steps() == [31]

    def go(*arguments: str) -> str:
        command = [*ezm_command, *arguments]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    shown = go("train", "--resume", str(run), "--steps", "90", "--seed", "0")
    assert "cartpole-balance" in shown and "EZ-M, search" in shown
    config = from_dict(RunFolder.open(run).config)
    assert config.steps == 90 and config.model.latent_size == 16
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["kind"] for row in rows].count("start") == 1
    last = [row for row in rows if row["kind"] == "eval"][-1]
    assert (last["step"], last["mode"], last["updates"]) == (90, "policy", 60)

    go("eval", str(run), "--episodes", "2", "--planner", "policy")
    evaluation = read_evaluations(run)[-1]
    assert (evaluation.step, evaluation.planner) == (90, "policy")
    assert len(evaluation.tasks["cartpole-balance"].returns) == 2

    (run / "report.html").unlink()
    assert go("report", str(run)) == f"{run / 'report.html'}\n"
    assert "cartpole-balance" in (run / "report.html").read_text()
