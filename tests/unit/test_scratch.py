"""Scratch directories and sockets that a killed owner or a power cut leaves, and their collection."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harness.domain import scratch
from harness.domain.janitor import Janitor
from harness.host import service


def test_a_directory_goes_with_its_context_and_is_not_collected_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    janitor = Janitor(tmp_path / "log")
    with scratch.directory("mine", janitor) as mine:
        (mine / "disk.img").touch()
        assert scratch.collect() == []
        assert (mine / "disk.img").exists()
    assert not mine.exists()
    janitor.dismiss()


def test_what_a_power_cut_left_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    left = tmp_path / "scratch" / "gone-abc"
    left.mkdir(parents=True)
    (left / "disk.img").touch()
    assert scratch.collect() == [f"removed {left}"]
    assert not left.exists()


def test_the_socket_of_a_killed_service_is_collected_and_a_live_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as live:
        dead.bind(str(tmp_path / "dead.sock"))
        live.bind(str(tmp_path / "live.sock"))
        live.listen()
        dead.close()
        assert service.collect() == ["removed the socket of the dead service, which was killed"]
        assert (tmp_path / "live.sock").exists()
        assert not (tmp_path / "dead.sock").exists()
