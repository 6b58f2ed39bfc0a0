"""SSH keys of an image: the guest's host key and the key that the harness logs in with.

They belong to a recipe, not to one build of it, so that whoever holds a running guest can still reach it after a
rebuild. The guest's side is dropbear, which has a key format of its own.
"""

from __future__ import annotations

import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import load_ssh_private_key as load

KEY_TYPE = b"ssh-ed25519"
HOST = "host_ed25519"
CLIENT = "client_ed25519"


@dataclass(frozen=True)
class Keys:
    """Private keys in OpenSSH's format."""

    host: Path
    client: Path

    def host_dropbear(self) -> bytes:
        """The host's private key as dropbear stores it: two length-prefixed strings, the type and seed + public key."""
        key = _read(self.host)
        secret = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        pair = secret + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return b"".join(struct.pack(">I", len(part)) + part for part in (KEY_TYPE, pair))

    def host_public(self) -> str:
        """``ssh-ed25519 AAAA…``, as in a known_hosts line after the host's name."""
        return _public(self.host)

    def client_public(self) -> str:
        """``ssh-ed25519 AAAA…``, as in authorized_keys."""
        return _public(self.client)


def _read(file: Path) -> Ed25519PrivateKey:
    key = load(file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{file} is not an ed25519 key")
    return key


def _public(file: Path) -> str:
    return _read(file).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _ensure(file: Path) -> Path:
    if not file.exists():
        text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        # mkstemp makes files that only their owner can read, which SSH clients insist on.
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as output:
            output.write(text)
        Path(temporary).rename(file)
    return file


def ensure(directory: Path) -> Keys:
    """The keys in a directory, made if missing; the caller holds the build lock."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return Keys(host=_ensure(directory / HOST), client=_ensure(directory / CLIENT))
