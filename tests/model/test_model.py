"""The protocols of the link, model-checked: every order of events, and memory as weak as x86's.

Each model has to hold, and has to fail with each of the defects that it says it catches: a model in which nothing can
go wrong proves nothing.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.host.process import run

MODELS = Path(__file__).parent
DEFECTS = {
    "ring": ("NO_PUSH_FENCE", "NO_ARM_FENCE", "NO_FINAL_CHECK", "MISSES_BATCHES", "NEVER_HOLDS_OFF"),
    "events": ("NO_SEND_FENCE", "NO_UNMASK_FENCE", "NO_UNMASK_CHECK", "NO_CLEAR_FENCE", "CLEARS_LATE"),
    "idle": ("NO_REARM", "NO_REARM_FENCE", "NO_LAST_LOOK", "NO_TIMER"),
    "grants": (
        "NO_MAP_FENCE",
        "NO_SECOND_LOOK",
        "NO_END_FENCE",
        "LOOKS_FIRST",
        "NO_READONLY_FENCE",
        "KEEPS_STATUS",
    ),
}
MAX_DEPTH = 100_000

pytestmark = pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed: run ci/setup")


def violations(model: str, directory: Path, *defects: str) -> list[str]:
    """What the verifier finds: nothing, or the first violation.

    :param directory: where its program is built.
    """
    deadline = Deadline(60, f"checking the model {model}")
    options = [f"-D{defect}" for defect in defects]
    build = f"cd {directory} && spin -a {' '.join(options)} {MODELS / model}.pml && gcc -w -DSAFETY -o pan pan.c"
    run("spin", ["sh", "-c", build], deadline)
    report = run("the verifier", ["sh", "-c", f"cd {directory} && ./pan -m{MAX_DEPTH}"], deadline)
    errors = re.search(r"errors: (\d+)", report)
    assert errors is not None, report
    assert "max search depth too small" not in report, report
    found = re.findall(r"^pan:\d+: (.*) \(at depth", report, re.MULTILINE)
    assert len(found) == int(errors[1]), report
    return found


@pytest.mark.parametrize("model", DEFECTS)
def test_the_protocol_loses_nothing(model: str, tmp_path: Path) -> None:
    assert violations(model, tmp_path) == []


@pytest.mark.parametrize(("model", "defect"), [(model, one) for model, all_ in DEFECTS.items() for one in all_])
def test_a_defect_is_caught(model: str, defect: str, tmp_path: Path) -> None:
    assert violations(model, tmp_path, defect)


@pytest.mark.parametrize("model", DEFECTS)
def test_the_model_names_its_defects(model: str) -> None:
    text = (MODELS / f"{model}.pml").read_text()
    conditional = set(re.findall(r"#\s*(?:ifn?def|if defined\(|elif defined\()\s*(\w+)", text))
    assert conditional == set(DEFECTS[model])
    for defect in DEFECTS[model]:
        assert re.search(rf"To be caught:[^/]*\b{defect}\b", text), f"{defect} is not explained"
