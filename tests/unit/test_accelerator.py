"""The accelerator: the probe's guest really runs, and every obstacle is told in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.host.errors import HostError, UsageError
from harness.machine import accelerator
from harness.machine.accelerator import Verdict, choose, kvm_verdict, run_probe
from harness.machine.command_line import QEMU
from harness.machine.probe_guest import RESET_VECTOR, ROM_SIZE, rom

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


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

    def probe(name: str) -> Verdict:
        runs.append(name)
        return verdict

    monkeypatch.setattr(accelerator, "run_probe", probe)
    monkeypatch.setattr(accelerator, "_cache_key", lambda: "this boot, this qemu")
    return runs


def test_rom_fits_and_starts_at_the_reset_vector() -> None:
    image = rom()
    assert len(image) == ROM_SIZE
    offset = int.from_bytes(image[RESET_VECTOR + 1 : RESET_VECTOR + 3], "little")
    assert (RESET_VECTOR + 3 + offset) % ROM_SIZE == 0


@needs_qemu
def test_probe_guest_runs_to_its_end() -> None:
    verdict = run_probe("tcg", seconds=30)
    assert verdict.works, verdict.reason


@needs_qemu
def test_guest_without_progress_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "rom", lambda: bytes(RESET_VECTOR) + b"\xeb\xfe" + bytes(14))
    assert run_probe("tcg", seconds=0.5) == Verdict(
        False, "a small test guest was started and made no progress in 0.5 s"
    )


@needs_qemu
def test_qemu_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "base_arguments", lambda name: [QEMU, "-accel", f"no-such-{name}"])
    verdict = run_probe("tcg", seconds=30)
    assert not verdict.works
    assert "QEMU ended with status 1" in verdict.reason
    assert "no-such-tcg" in verdict.reason


def test_guest_that_crashes_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # QEMU under -no-reboot ends with status 0 when the guest resets: that is not the status of success.
    monkeypatch.setattr(accelerator, "base_arguments", lambda _: ["sh", "-c", "exit 0"])
    assert not run_probe("tcg").works


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
    monkeypatch.setattr(accelerator, "_cache_key", lambda: "the next boot")
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
