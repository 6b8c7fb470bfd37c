"""The directory of a run."""

from __future__ import annotations

import json
import random
import re

from agentscope_async._rundir import RunDirectory


def test_a04_a_run_directory_says_what_it_is(tmp_path):
    run = RunDirectory(tmp_path, project="tea", name="first")
    assert list(tmp_path.iterdir()) == []
    assert re.fullmatch(r"run_\d{8}-\d{6}_[0-9a-z]{6}", run.path.name)
    about = json.loads((run.path / ".config").read_text())
    assert list(about) == ["project", "name", "id", "timestamp"]
    assert (about["project"], about["name"], about["id"]) == ("tea", "first", run.path.name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", about["timestamp"])


def test_a04_what_is_not_given_is_random(tmp_path):
    run = RunDirectory(tmp_path)
    assert re.fullmatch(r"[0-9a-zA-Z]{6}", run.project)
    assert run.path.name.endswith(f"_{run.name}")


def test_runs_of_programs_with_the_same_seed_are_apart(tmp_path):
    runs = []
    for _ in range(2):
        random.seed(0)
        runs.append(RunDirectory(tmp_path).path)
    assert runs[0] != runs[1]


def test_making_a_run_directory_leaves_the_programs_random_numbers_alone(tmp_path):
    random.seed(0)
    expected = random.random()
    random.seed(0)
    assert RunDirectory(tmp_path).path.exists()
    assert random.random() == expected
