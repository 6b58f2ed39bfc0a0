"""Serves a network control ring: how the guest sets up receive-side hashing."""

from __future__ import annotations

import struct
from collections.abc import Callable

from harness.backend.net_hash import ALL_TYPES, MAX_KEY, MAX_MAPPING, Steering
from harness.backend.net_ring import Attachment
from harness.hypervisor.events import fence
from harness.hypervisor.grants import GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.netif import (
    CTRL_ENTRY_SIZE,
    CTRL_REQUEST,
    CTRL_RESPONSE,
    CtrlStatus,
    CtrlType,
    HashAlgorithm,
)
from harness.ring.ring import BackRing

Result = CtrlStatus | tuple[CtrlStatus, int]
"""A status, and what is answered with it, if anything."""


class ControlRing:
    """The control ring of one network interface.

    :ivar ring: its indices.
    :param steering: what is set up.
    """

    def __init__(self, attachment: Attachment, steering: Steering) -> None:
        self.name = attachment.name
        self.port = attachment.port
        self.notification = attachment.notification
        self.ring = BackRing(attachment.page, CTRL_ENTRY_SIZE, fence)
        self.mappings = attachment.mappings
        self._link = attachment.link
        self._page = attachment.page
        self._steering = steering
        self._operations: dict[int, Callable[..., Result]] = {
            CtrlType.GET_HASH_FLAGS: self._get_flags,
            CtrlType.SET_HASH_FLAGS: self._set_flags,
            CtrlType.SET_HASH_KEY: self._set_key,
            CtrlType.GET_HASH_MAPPING_SIZE: self._get_mapping_size,
            CtrlType.SET_HASH_MAPPING_SIZE: self._set_mapping_size,
            CtrlType.SET_HASH_MAPPING: self._set_mapping,
            CtrlType.SET_HASH_ALGORITHM: self._set_algorithm,
        }

    def work(self) -> bool:
        """Do what the guest has asked for.

        :raise GuestError: the ring is corrupt.
        """
        waiting = self.ring.unconsumed()
        for _ in range(waiting):
            number, kind, *numbers = CTRL_REQUEST.unpack_from(self._page, self.ring.take())
            result = self._perform(kind, numbers)
            status, data = result if isinstance(result, tuple) else (result, 0)
            CTRL_RESPONSE.pack_into(self._page, self.ring.put(), number, kind, status, data)
            if self.ring.push():
                self._link.events.send(self.port)
        return waiting > 0

    def arm(self) -> bool:
        """Have the frontend notify us of its next request; True when one waits already.

        :raise GuestError: the ring is corrupt.
        """
        return self.ring.final_check()

    def _perform(self, kind: int, numbers: list[int]) -> Result:
        # What is left out is static grants, which we have no use for: where persistent grants are agreed on, frames
        # stay mapped for good anyway.
        operation = self._operations.get(kind)
        return operation(*numbers) if operation else CtrlStatus.NOT_SUPPORTED

    def _set_algorithm(self, algorithm: int, *_: int) -> Result:
        if algorithm not in list(HashAlgorithm):
            return CtrlStatus.INVALID_PARAMETER
        self._steering.choose(HashAlgorithm(algorithm), self._steering.types)
        return CtrlStatus.SUCCESS

    def _get_flags(self, *_: int) -> Result:
        if self._steering.algorithm == HashAlgorithm.NONE:
            return CtrlStatus.NOT_SUPPORTED
        return CtrlStatus.SUCCESS, ALL_TYPES

    def _set_flags(self, types: int, *_: int) -> Result:
        if self._steering.algorithm == HashAlgorithm.NONE or types & ~ALL_TYPES:
            return CtrlStatus.INVALID_PARAMETER
        self._steering.choose(self._steering.algorithm, types)
        return CtrlStatus.SUCCESS

    def _set_key(self, ref: int, size: int, *_: int) -> Result:
        if size > MAX_KEY:
            return CtrlStatus.BUFFER_OVERFLOW
        key = self._copy(ref, size)
        if key is None:
            return CtrlStatus.INVALID_PARAMETER
        self._steering.set_key(key)
        return CtrlStatus.SUCCESS

    def _get_mapping_size(self, *_: int) -> Result:
        return CtrlStatus.SUCCESS, MAX_MAPPING

    def _set_mapping_size(self, size: int, *_: int) -> Result:
        if size > MAX_MAPPING:
            return CtrlStatus.INVALID_PARAMETER
        self._steering.resize(size)
        return CtrlStatus.SUCCESS

    def _set_mapping(self, ref: int, count: int, offset: int) -> Result:
        # Numbers have no size here, so their sum does not overflow.
        if offset + count > MAX_MAPPING:
            return CtrlStatus.BUFFER_OVERFLOW
        part = self._copy(ref, count * 4)
        if part is None or not self._steering.change(offset, struct.unpack(f"<{count}I", part)):
            return CtrlStatus.INVALID_PARAMETER
        return CtrlStatus.SUCCESS

    def _copy(self, ref: int, size: int) -> bytes | None:
        """The first bytes of a granted frame; None if it is not granted to us."""
        if not size:
            return b""
        try:
            grant = self._link.grants.map(ref, write=False)
        except GrantError:
            return None
        copy = bytes(grant.memory[: min(size, FRAME_SIZE)])
        self._link.grants.unmap(grant)
        return copy
