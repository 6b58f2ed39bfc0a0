"""The doctor: what it finds on machines that lack something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.backend.network_client import NetworkClient
from harness.cli.main import main
from harness.domain import diagnosis
from harness.domain.diagnosis import Finding, examine
from harness.host.errors import HostError
from harness.image import build as images
from harness.machine import accelerator, memory
from harness.machine.probe import Verdict


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def without(programs: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in programs else which(name))


def test_missing_programs_are_mended_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    without({"ip", "nsenter", "setpriv"}, monkeypatch)
    found = diagnosis.programs()
    assert (found.ok, found.required) == (False, True)
    assert found.text == "not installed: setpriv, nsenter, ip"
    assert found.mend is not None
    assert found.mend.endswith("apt-get install -y iproute2 util-linux")


def test_a_missing_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    without({"qemu-system-x86_64"}, monkeypatch)
    found = diagnosis.qemu()
    assert not found.ok
    assert found.mend is not None
    assert found.mend.endswith("apt-get install -y qemu-system-x86")


def test_a_qemu_without_ivshmem(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_name: str, argv: list[str], _deadline: object) -> str:
        if argv[1] == "--version":
            return "QEMU emulator version 9.9\nCopyright"
        return "\n".join(f'name "{device}", bus PCI' for device in diagnosis.DEVICES if "ivshmem" not in device)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(diagnosis, "run", run)
    found = diagnosis.qemu()
    assert (found.ok, found.text) == (False, "9.9 lacks ivshmem-doorbell")


def test_kvm_that_does_not_work_is_only_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "kvm_verdict", lambda: Verdict(False, "it does not move"))
    found = diagnosis.kvm()
    assert (found.ok, found.required) == (False, False)
    assert found.text.startswith("it does not move; guests are emulated")


def test_kvm_without_permission_is_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerator, "kvm_verdict", lambda: Verdict(False, "no permission"))
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert diagnosis.kvm().mend == 'sudo usermod -aG kvm "$USER"'


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    need = diagnosis.GUEST_MEMORY + memory.QEMU_MEMORY
    for left, ok in ((need - 1, False), (need, True)):
        monkeypatch.setattr(memory, "available", lambda left=left: left << 20)
        assert diagnosis.enough_memory().ok is ok


def test_a_network_that_cannot_be_had_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NetworkClient:
        raise HostError("cannot create a network namespace", hint="sysctl user.max_user_namespaces=10000")

    monkeypatch.setattr(NetworkClient, "connect", refuse)
    found = next(finding for finding in examine() if finding.name == "network")
    assert (found.ok, found.required) == (False, True)
    assert found.mend == "sysctl user.max_user_namespaces=10000"


@pytest.mark.parametrize("variable", ["HARNESS_CACHE", "HARNESS_RUNTIME"])
def test_directories_that_cannot_be_made(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    name = variable.removeprefix("HARNESS_").lower()
    found = next(finding for finding in examine() if finding.name == name)
    assert not found.ok
    assert str(tmp_path / "file" / "below") in found.text
    assert found.mend is not None


def test_build_tools_matter_only_without_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    without({"gcc", "make"}, monkeypatch)
    found = diagnosis.build_tools()
    assert (found.ok, found.required) == (False, True)
    assert found.mend is not None
    assert found.mend.endswith("apt-get install -y gcc make")
    assert diagnosis.image().mend == "harness images build"
    monkeypatch.setattr(images, "list_images", lambda: [object()])
    assert diagnosis.build_tools().required is False


def test_every_tool_that_a_build_needs_has_its_package() -> None:
    assert set(images.TOOLS) <= set(diagnosis.BUILD_PACKAGES)


@pytest.mark.parametrize(("required", "code"), [(True, 3), (False, 0)])
@pytest.mark.parametrize("ok", [True, False])
def test_the_verb(
    ok: bool, required: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check() -> Finding:
        return Finding("thing", ok, "so it is", None if ok else "mend --it", required)

    checks: dict[str, Callable[[], Finding]] = {"thing": check}
    monkeypatch.setattr(diagnosis, "CHECKS", checks)
    expected = 0 if ok else code
    assert main(["doctor", "--json"]) == expected
    (fields,) = json.loads(capsys.readouterr().out)
    assert fields == {"name": "thing", "ok": ok, "text": "so it is", "mend": None if ok else "mend --it",
                      "required": required}  # fmt: skip
    assert main(["doctor"]) == expected
    out = capsys.readouterr().out
    assert ("mend it: mend --it" in out) is not ok
    assert ("Not ready: thing." in out) is (expected == 3)
