"""The accelerator: what works is used, and every obstacle is told in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.host.errors import HostError, UsageError
from harness.machine import accelerator, probe
from harness.machine.accelerator import choose, kvm_verdict
from harness.machine.probe import Verdict


@pytest.fixture(autouse=True)
def _private_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))


@pytest.fixture
def _with_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A /dev/kvm that can be opened."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "kvm")


def probe_says(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> list[str]:
    """Replace the probe; the list receives one entry for each time it runs."""
    runs: list[str] = []

    def run(name: str) -> Verdict:
        runs.append(name)
        return verdict

    monkeypatch.setattr(accelerator, "run_probe", run)
    monkeypatch.setattr(probe, "_cache_key", lambda *_: "this boot, this qemu")
    return runs


def test_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "kvm")
    runs = probe_says(monkeypatch, Verdict(True, "works"))
    assert kvm_verdict() == Verdict(False, f"there is no {tmp_path}/kvm")
    assert runs == []


def test_tcg_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = probe_says(monkeypatch, Verdict(True, "works"))
    assert choose("tcg").name == "tcg"
    assert runs == []


@pytest.mark.usefixtures("_with_device")
@pytest.mark.parametrize("request_", ["auto", "kvm"])
def test_working_kvm_is_used(monkeypatch: pytest.MonkeyPatch, request_: str) -> None:
    probe_says(monkeypatch, Verdict(True, "it ran"))
    chosen = choose(request_)
    assert (chosen.name, chosen.reason) == ("kvm", "it ran")


@pytest.mark.usefixtures("_with_device")
def test_broken_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_says(monkeypatch, Verdict(False, "no progress"))
    chosen = choose("auto")
    assert (chosen.name, chosen.reason) == ("tcg", "KVM does not work on this machine: no progress")
    with pytest.raises(HostError, match="no progress") as caught:
        choose("kvm")
    assert caught.value.exit_code == 3
    assert "--accel tcg" in str(caught.value)


def test_unknown_request() -> None:
    with pytest.raises(UsageError, match="expected auto, kvm or tcg"):
        choose("hvf")


@pytest.mark.usefixtures("_with_device")
@pytest.mark.parametrize("works", [True, False])
def test_verdict_is_remembered(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    runs = probe_says(monkeypatch, Verdict(works, "seen"))
    assert kvm_verdict() == kvm_verdict() == Verdict(works, "seen")
    assert runs == ["kvm"]


@pytest.mark.usefixtures("_with_device")
def test_verdict_is_forgotten_after_a_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = probe_says(monkeypatch, Verdict(True, "seen"))
    kvm_verdict()
    monkeypatch.setattr(probe, "_cache_key", lambda *_: "the next boot")
    kvm_verdict()
    assert runs == ["kvm", "kvm"]


@pytest.mark.usefixtures("_with_device")
@pytest.mark.parametrize("extra", [None, {"works": 1, "reason": "x"}, {"works": True}, {"surprise": 1}])
def test_damaged_memory_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, object]) -> None:
    runs = probe_says(monkeypatch, Verdict(True, "seen"))
    record = tmp_path / "cache" / "accelerator" / "kvm.json"
    record.parent.mkdir(parents=True)
    record.write_text("{" if extra is None else json.dumps({"key": "this boot, this qemu", **extra}))
    assert kvm_verdict() == Verdict(True, "seen")
    assert runs == ["kvm"]
