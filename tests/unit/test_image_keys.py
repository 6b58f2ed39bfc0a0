"""SSH keys: formats that others read, and permanence."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import paramiko

from harness.image import keys


def test_paramiko_reads_the_client_key_and_agrees_on_its_public_half(tmp_path: Path) -> None:
    pair = keys.ensure(tmp_path / "keys")
    key = paramiko.Ed25519Key.from_private_key_file(str(pair.client))
    assert pair.client_public() == f"{key.get_name()} {key.get_base64()}"
    assert stat.S_IMODE(pair.client.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_dropbears_format_holds_type_seed_and_public_key(tmp_path: Path) -> None:
    pair = keys.ensure(tmp_path / "keys")
    data = pair.host_dropbear()
    assert len(data) == 4 + 11 + 4 + 64
    assert data[:19] == struct.pack(">I11sI", 11, b"ssh-ed25519", 64)
    public = paramiko.Ed25519Key.from_private_key_file(str(pair.host)).asbytes()
    assert data[-32:] == public[-32:]


def test_keys_survive_a_rebuild_and_differ_from_each_other(tmp_path: Path) -> None:
    first = keys.ensure(tmp_path / "keys")
    before = (first.host_public(), first.client_public())
    second = keys.ensure(tmp_path / "keys")
    assert (second.host_public(), second.client_public()) == before
    assert before[0] != before[1]
    assert keys.ensure(tmp_path / "other").host_public() != before[0]
