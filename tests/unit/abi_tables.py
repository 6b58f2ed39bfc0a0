"""What the ABI tests expect: Python's values by the C expressions that must have them, and its layouts."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from harness.bus.xenbus import XenbusState
from harness.hypervisor import events, grants, layout, startinfo
from harness.ring import blkif, console, netif, ring
from harness.store import wire
from tests.unit.abi import Structure


def named(prefix: str, enum: type[IntEnum], suffix: str = "") -> dict[str, int]:
    """The C names of an enumeration whose members follow one pattern."""
    return {f"{prefix}{member.name}{suffix}": member.value for member in enum}


def flags(prefix: str, enum: type[IntFlag]) -> dict[str, int]:
    return {f"{prefix}{member.name.lower()}": member.value for member in enum if member.name}


XENBUS_STATES = {
    XenbusState.UNKNOWN: "Unknown",
    XenbusState.INITIALISING: "Initialising",
    XenbusState.INIT_WAIT: "InitWait",
    XenbusState.INITIALISED: "Initialised",
    XenbusState.CONNECTED: "Connected",
    XenbusState.CLOSING: "Closing",
    XenbusState.CLOSED: "Closed",
    XenbusState.RECONFIGURING: "Reconfiguring",
    XenbusState.RECONFIGURED: "Reconfigured",
}
NEWER_OPS = {"GET_FEATURE", "SET_FEATURE", "GET_QUOTA", "SET_QUOTA"}
"""Of the store: Debian 12's headers are older than these."""
GRANT_STATUS = {member: f"GNTST_{member.name.lower()}" for member in grants.GrantStatus}

CONSTANTS: dict[str, int] = {
    **{f"XenbusState{name}": state.value for state, name in XENBUS_STATES.items()},
    **{name: status.value for status, name in GRANT_STATUS.items()},
    **{f"EVTCHNSTAT_{state.name.lower()}": state.value for state in events.PortState},
    **{f"XS_{op.name}": op.value for op in wire.Op if op.name not in NEWER_OPS},
    **{f"BLKIF_OP_{op.name}": op.value for op in blkif.Operation},
    **named("BLKIF_RSP_", blkif.Status),
    **named("NETIF_RSP_", netif.Status),
    **named("XEN_NETIF_EXTRA_TYPE_", netif.ExtraType),
    **flags("NETTXF_", netif.TxFlags),
    **flags("NETRXF_", netif.RxFlags),
    "GTF_type_mask": grants.GTF_TYPE_MASK,
    "GTF_invalid": grants.GTF_INVALID,
    "GTF_permit_access": grants.GTF_PERMIT_ACCESS,
    "GTF_readonly": grants.GTF_READONLY,
    "GTF_reading": grants.GTF_READING,
    "GTF_writing": grants.GTF_WRITING,
    "GNTTAB_RESERVED_CONSOLE": layout.CONSOLE_REF,
    "GNTTAB_RESERVED_XENSTORE": layout.STORE_REF,
    "GNTTAB_NR_RESERVED_ENTRIES": layout.NR_RESERVED_REFS,
    "sizeof(grant_entry_v1_t)": layout.GRANT_ENTRY_SIZE,
    "EVTCHN_2L_NR_CHANNELS": layout.LINK_PORTS,
    "DOMID_FIRST_RESERVED": 0x7FF0,
    "sizeof(struct start_info)": startinfo.START_INFO.size,
    "BLKIF_MAX_SEGMENTS_PER_REQUEST": blkif.MAX_SEGMENTS,
    "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST": blkif.MAX_INDIRECT_PAGES,
    "4096 / sizeof(struct blkif_request_segment)": blkif.SEGMENTS_PER_INDIRECT_PAGE,
    "BLKIF_DISCARD_SECURE": blkif.DISCARD_SECURE,
    "VDISK_CDROM": blkif.VDISK_CDROM,
    "VDISK_REMOVABLE": blkif.VDISK_REMOVABLE,
    "VDISK_READONLY": blkif.VDISK_READONLY,
    "sizeof(union blkif_sring_entry)": blkif.ENTRY_SIZE,
    "sizeof(struct blkif_request)": blkif.TAIL + blkif.SEGMENTS[11].size,
    "SEGMENTS_AT": blkif.TAIL,
    "sizeof(struct blkif_response)": blkif.RESPONSE.size,
    **named("XEN_NETIF_CTRL_TYPE_", netif.CtrlType),
    **named("XEN_NETIF_CTRL_STATUS_", netif.CtrlStatus),
    **named("XEN_NETIF_CTRL_HASH_ALGORITHM_", netif.HashAlgorithm),
    "sizeof(struct xen_netif_ctrl_request)": netif.CTRL_REQUEST.size,
    "sizeof(union xen_netif_ctrl_sring_entry)": netif.CTRL_ENTRY_SIZE,
    "__CONST_RING_SIZE(xen_netif_ctrl, 4096)": ring.ring_size(4096, netif.CTRL_ENTRY_SIZE),
    "XEN_NETIF_EXTRA_FLAG_MORE": netif.EXTRA_FLAG_MORE,
    "XEN_NETIF_GSO_TYPE_NONE": netif.GSO_TYPE_NONE,
    "XEN_NETIF_GSO_TYPE_TCPV4": netif.GSO_TYPE_TCPV4,
    "XEN_NETIF_GSO_TYPE_TCPV6": netif.GSO_TYPE_TCPV6,
    "XEN_NETIF_NR_SLOTS_MIN": netif.SLOTS_MIN,
    "sizeof(union netif_tx_sring_entry)": netif.TX_ENTRY_SIZE,
    "sizeof(union netif_rx_sring_entry)": netif.RX_ENTRY_SIZE,
    "sizeof(netif_tx_request_t)": netif.TX_REQUEST.size,
    "sizeof(netif_rx_request_t)": netif.RX_REQUEST.size,
    "sizeof(netif_rx_response_t)": netif.RX_RESPONSE.size,
    "sizeof(struct netif_extra_info)": netif.EXTRA.size,
    "offsetof(struct test_sring, ring)": ring.HEADER_SIZE,
    "offsetof(struct test_sring, req_prod)": ring.REQ_PROD * 4,
    "offsetof(struct test_sring, req_event)": ring.REQ_EVENT * 4,
    "offsetof(struct test_sring, rsp_prod)": ring.RSP_PROD * 4,
    "offsetof(struct test_sring, rsp_event)": ring.RSP_EVENT * 4,
    "__CONST_RING_SIZE(blkif, 4096)": ring.ring_size(4096, blkif.ENTRY_SIZE),
    "__CONST_RING_SIZE(netif_tx, 4096)": ring.ring_size(4096, netif.TX_ENTRY_SIZE),
    "__CONST_RING_SIZE(netif_rx, 4096)": ring.ring_size(4096, netif.RX_ENTRY_SIZE),
    "offsetof(struct xencons_interface, in)": console.IN_OFFSET,
    "sizeof(((struct xencons_interface *)0)->in)": console.IN_SIZE,
    "offsetof(struct xencons_interface, out)": console.OUT_OFFSET,
    "sizeof(((struct xencons_interface *)0)->out)": console.OUT_SIZE,
    "offsetof(struct xencons_interface, in_cons)": console.IN_CONS,
    "offsetof(struct xencons_interface, in_prod)": console.IN_PROD,
    "offsetof(struct xencons_interface, out_cons)": console.OUT_CONS,
    "offsetof(struct xencons_interface, out_prod)": console.OUT_PROD,
    "XENSTORE_PAYLOAD_MAX": wire.PAYLOAD_MAX,
    "sizeof(struct xsd_sockmsg)": wire.HEADER.size,
    "LINK_MAGIC": layout.LINK_MAGIC,
    "LINK_VERSION": layout.LINK_VERSION,
    "LINK_INFO_OFFSET": layout.LINK_INFO_OFFSET,
    "LINK_END_GRANTER": layout.GRANTER,
    "LINK_END_GRANTEE": layout.GRANTEE,
    "LINK_PORTS": layout.LINK_PORTS,
    "LINK_FIRST_SLOT": layout.FIRST_LINK_SLOT,
    "sizeof(struct link_info)": layout.LINK_INFO.size,
    "LINK_INFO_OFFSET + offsetof(struct link_info, nr_grant_frames)": layout.NR_GRANT_FRAMES_OFFSET,
    "sizeof(struct link_port)": layout.PORT.size,
}

REQUEST = {"operation": 1, "nr_segments": 2, "handle": 3, "id": "0x1122334455667788", "sector_number": "0xabcdef0123"}
SEGMENT_VALUES = (0xA1B2C3D4, 5, 6)
STRUCTURES: dict[str, tuple[Structure, struct.Struct, int, tuple[object, ...]]] = {
    # name: what C writes; how Python reads it, and at which offset; what must come out
    "request": (
        Structure("struct blkif_request", REQUEST),
        blkif.REQUEST,
        0,
        (1, 2, 3, 0x1122334455667788, 0xABCDEF0123),
    ),
    "segments": (
        Structure(
            "struct blkif_request",
            {f"seg[{index}]": "{0xa1b2c3d4, 5, 6}" for index in range(blkif.MAX_SEGMENTS)},
        ),
        blkif.SEGMENTS[11],
        blkif.TAIL,
        SEGMENT_VALUES * 11,
    ),
    "segment": (
        Structure("struct blkif_request_segment", {"gref": 7, "first_sect": 8, "last_sect": 9}),
        blkif.SEGMENT,
        0,
        (7, 8, 9),
    ),
    "indirect_head": (
        Structure(
            "blkif_request_indirect_t",
            {"operation": 6, "indirect_op": 1, "nr_segments": 300, "id": 4, "sector_number": 5},
        ),
        blkif.REQUEST,
        0,
        (6, 1, 300, 4, 5),
    ),
    "indirect_tail": (
        Structure(
            "blkif_request_indirect_t",
            {"handle": 9, **{f"indirect_grefs[{index}]": 20 + index for index in range(8)}},
        ),
        blkif.INDIRECT,
        blkif.TAIL,
        (9, *range(20, 28)),
    ),
    "discard_head": (
        Structure(
            "struct blkif_request_discard", {"operation": 5, "flag": 1, "handle": 3, "id": 4, "sector_number": 6}
        ),
        blkif.REQUEST,
        0,
        (5, 1, 3, 4, 6),
    ),
    "discard_tail": (
        Structure("struct blkif_request_discard", {"nr_sectors": "0x1122334455"}),
        blkif.DISCARD,
        blkif.TAIL,
        (0x1122334455,),
    ),
    "response": (
        Structure("struct blkif_response", {"id": 3, "operation": 1, "status": -2}),
        blkif.RESPONSE,
        0,
        (3, 1, -2),
    ),
    "tx_request": (
        Structure("netif_tx_request_t", {"gref": 1, "offset": 2, "flags": 3, "id": 4, "size": 5}),
        netif.TX_REQUEST,
        0,
        (1, 2, 3, 4, 5),
    ),
    "tx_response": (
        Structure("union netif_tx_sring_entry", {"rsp": "{.id = 1, .status = -1}"}),
        netif.TX_RESPONSE,
        0,
        (1, -1),
    ),
    "rx_request": (Structure("netif_rx_request_t", {"id": 1, "gref": 2}), netif.RX_REQUEST, 0, (1, 2)),
    "rx_response": (
        Structure("netif_rx_response_t", {"id": 1, "offset": 2, "flags": 3, "status": -1}),
        netif.RX_RESPONSE,
        0,
        (1, 2, 3, -1),
    ),
    "gso": (
        Structure("struct netif_extra_info", {"u.gso.size": 1448, "u.gso.type": 1, "u.gso.features": 7}),
        netif.EXTRA_GSO,
        2,
        (1448, 1, 7),
    ),
    "extra": (
        Structure("struct netif_extra_info", {"type": 2, "flags": 1, "u.mcast.addr": "{1, 2, 3, 4, 5, 6}"}),
        netif.EXTRA,
        0,
        (2, 1, bytes(range(1, 7))),
    ),
    "ctrl_request": (
        Structure("struct xen_netif_ctrl_request", {"id": 1, "type": 2, "data": "{3, 4, 5}"}),
        netif.CTRL_REQUEST,
        0,
        (1, 2, 3, 4, 5),
    ),
    "ctrl_response": (
        Structure("union xen_netif_ctrl_sring_entry", {"rsp": "{.id = 1, .type = 2, .status = 3, .data = 4}"}),
        netif.CTRL_RESPONSE,
        0,
        (1, 2, 3, 4),
    ),
    "message": (
        Structure("struct xsd_sockmsg", {"type": 1, "req_id": 2, "tx_id": 3, "len": 4}),
        wire.HEADER,
        0,
        (1, 2, 3, 4),
    ),
    "port": (Structure("struct link_port", {"state": 1, "vector": 2, "remote_port": 3}), layout.PORT, 0, (1, 2, 3)),
}
