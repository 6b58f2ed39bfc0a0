"""Xen's ``struct start_info`` (xen.h): the first thing a paravirtual guest reads, at the beginning of frame 0."""

from __future__ import annotations

import struct

from harness.hypervisor.layout import GUEST_CONSOLE_PORT, GUEST_STORE_PORT, LinkLayout

MAGIC = b"xen-3.0-x86_64"

START_INFO = struct.Struct("<32s QQ I4x QI4x QI4x QQQQQ 1024s QQ")
"""magic, nr_pages, shared_info, flags, store_mfn, store_evtchn, console.domU.{mfn, evtchn}, then what only a guest
that Xen itself has loaded would need: page tables, modules, command line."""


def pack_start_info(layout: LinkLayout, *, toolstack: bool = True) -> bytes:
    """The start info of the guest at the granting end of a link; page numbers are frame numbers of the link.

    :param toolstack: the link has the domain's store and console; else their frames and ports are 0.
    """
    store, console = ((layout.store_frame, GUEST_STORE_PORT), (layout.console_frame, GUEST_CONSOLE_PORT))
    return START_INFO.pack(
        MAGIC,
        layout.nr_frames,
        0,
        0,
        *(store if toolstack else (0, 0)),
        *(console if toolstack else (0, 0)),
        *(0, 0, 0, 0, 0),
        b"",
        *(0, 0),
    )
