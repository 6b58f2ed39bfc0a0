"""The network protocol (netif.h): transmit, receive and control rings, extra info.

"Transmit" and "receive" are the frontend's. A packet may take several slots, all but the last flagged MORE_DATA; the
first slot may be followed by extra info slots, announced by EXTRA_INFO, before the second slot of data.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag


class TxFlags(IntFlag):
    """``NETTXF_*``."""

    CSUM_BLANK = 1
    DATA_VALIDATED = 2
    MORE_DATA = 4
    EXTRA_INFO = 8


class RxFlags(IntFlag):
    """``NETRXF_*``."""

    DATA_VALIDATED = 1
    CSUM_BLANK = 2
    MORE_DATA = 4
    EXTRA_INFO = 8
    GSO_PREFIX = 16


class Status(IntEnum):
    """``NETIF_RSP_*``."""

    DROPPED = -2
    ERROR = -1
    OKAY = 0
    NULL = 1
    """The answer to a transmit slot that carried extra info."""


class ExtraType(IntEnum):
    """``XEN_NETIF_EXTRA_TYPE_*``."""

    NONE = 0
    GSO = 1
    MCAST_ADD = 2
    MCAST_DEL = 3
    HASH = 4


class CtrlType(IntEnum):
    """``XEN_NETIF_CTRL_TYPE_*``."""

    INVALID = 0
    GET_HASH_FLAGS = 1
    SET_HASH_FLAGS = 2
    SET_HASH_KEY = 3
    GET_HASH_MAPPING_SIZE = 4
    SET_HASH_MAPPING_SIZE = 5
    SET_HASH_MAPPING = 6
    SET_HASH_ALGORITHM = 7
    GET_GREF_MAPPING_SIZE = 8
    ADD_GREF_MAPPING = 9
    DEL_GREF_MAPPING = 10


class CtrlStatus(IntEnum):
    """``XEN_NETIF_CTRL_STATUS_*``."""

    SUCCESS = 0
    NOT_SUPPORTED = 1
    INVALID_PARAMETER = 2
    BUFFER_OVERFLOW = 3


class HashAlgorithm(IntEnum):
    """``XEN_NETIF_CTRL_HASH_ALGORITHM_*``."""

    NONE = 0
    TOEPLITZ = 1


class HashType(IntEnum):
    """``_XEN_NETIF_CTRL_HASH_TYPE_*``: numbers of bits."""

    IPV4 = 0
    IPV4_TCP = 1
    IPV6 = 2
    IPV6_TCP = 3


EXTRA_FLAG_MORE = 1
"""Another extra info slot follows."""

GSO_TYPE_NONE = 0
GSO_TYPE_TCPV4 = 1
GSO_TYPE_TCPV6 = 2

SLOTS_MIN = 18
"""``XEN_NETIF_NR_SLOTS_MIN``: slots per packet that every backend accepts."""

TX_ENTRY_SIZE = 12
RX_ENTRY_SIZE = 8
CTRL_ENTRY_SIZE = 16

TX_REQUEST = struct.Struct("<IHHHH")
"""grant reference, offset, flags, id, size: of the whole packet in its first slot, of the slot in the others."""

TX_RESPONSE = struct.Struct("<Hh8x")
"""id, status; the rest of the slot is written as zeros."""

RX_REQUEST = struct.Struct("<H2xI")
"""id, grant reference."""

RX_RESPONSE = struct.Struct("<HHHh")
"""id, offset, flags, status: the size of this fragment when it is not negative."""

EXTRA = struct.Struct("<BB6s")
"""type, flags, what the type says; takes the place of a request (or of a receive response)."""

EXTRA_GSO = struct.Struct("<HBxH")
"""Within an extra of type GSO: segment size, GSO type, features."""

EXTRA_HASH = struct.Struct("<BBI")
"""Within an extra of type HASH: a HashType, a HashAlgorithm, the hash."""

CTRL_REQUEST = struct.Struct("<HHIII")
"""id, CtrlType, three numbers."""

CTRL_RESPONSE = struct.Struct("<HHII4x")
"""id, CtrlType, CtrlStatus, a number; the rest of the slot is written as zeros."""
