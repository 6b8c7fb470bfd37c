"""The questions by which retrieval is measured name places that exist."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUESTIONS = ROOT / "benchmarks" / "data" / "retrieval_questions.jsonl"


def test_each_answer_is_a_file_and_a_heading_in_it():
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    answers = [answer for line in lines for answer in json.loads(line)["answers"]]
    assert len(lines) == 60
    assert [each for each in answers if not is_there(*each)] == []


def is_there(file, heading):
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return f"# {heading}\n" in text
    return heading in text
