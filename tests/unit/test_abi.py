"""Layouts and numbers are Xen's, byte for byte: compared with libxen-dev's headers, the guest kernel's, and link.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.host.directories import GUESTS, cache
from harness.hypervisor import grants, layout, startinfo
from harness.hypervisor.layout import LinkLayout
from tests.unit.abi import Structure, ask
from tests.unit.abi_tables import CONSTANTS, STRUCTURES

LINK = f'"{GUESTS / "drivers/include/link.h"}"'
XEN = Path("/usr/include/xen")
KERNEL_HEADERS = sorted(cache("packages").glob("headers-*/usr/src/linux-headers-*-common"))
"""Of the guest's kernel, which building the image has unpacked."""


@dataclass(frozen=True)
class Source:
    """Headers that say what the ABI is.

    :param includes: as they stand behind ``#include``, with what has to come between them.
    :param options: of the compiler, to find them.
    :param structures: those that are declared otherwise than in libxen-dev.
    :param lacks: constants that they do not have.
    """

    includes: list[str]
    options: tuple[str, ...] = ()
    structures: Mapping[str, Structure] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()


KERNEL_LACKS = frozenset(
    {"BLKIF_OP_RESERVED_1"}
    | {f"XEN_NETIF_CTRL_TYPE_{name}_GREF_MAPPING{rest}" for name, rest in (("GET", "_SIZE"), ("ADD", ""), ("DEL", ""))}
)

TYPES = "DEFINE_RING_TYPES(test, struct blkif_request, struct blkif_response);"
"""Every interface makes its own ring types with this macro."""


_SEGMENTS_AT = "#define SEGMENTS_AT offsetof(struct blkif_request,"


def _libxen() -> Source:
    names = ["xen", "event_channel", "grant_table", "io/ring", "io/blkif", "io/netif", "io/console", "io/xenbus"]
    return Source([f"<xen/{name}.h>" for name in [*names, "io/xs_wire"]] + [f"{LINK}\n{TYPES}\n{_SEGMENTS_AT} seg)"])


def _blkif_union(kind: str, structure: Structure) -> Structure:
    """The kernel's one request structure in place of Xen's one for each kind."""
    fields = {name if name == "operation" else f"u.{kind}.{name}": value for name, value in structure.fields.items()}
    if kind == "discard" and "u.discard.handle" in fields:
        fields["u.discard._pad1"] = fields.pop("u.discard.handle")
    return Structure("struct blkif_request", fields)


BLKIF_KINDS = {
    "request": "rw",
    "segments": "rw",
    "indirect_head": "indirect",
    "indirect_tail": "indirect",
    "discard_head": "discard",
    "discard_tail": "discard",
}


def _kernel() -> Source:
    names = ["xen", "event_channel", "grant_table", "io/ring", "io/blkif", "io/netif", "io/console", "io/xenbus"]
    # Linux prefixes what Xen does not, and has no typedefs.
    aliases = [f"{name} XEN_{name}" for name in CONSTANTS if name.startswith(("NETTXF_", "NETRXF_", "NETIF_RSP_"))]
    for name in ("tx_request", "rx_request", "rx_response"):
        aliases.append(f"netif_{name}_t struct xen_netif_{name}")
    aliases += [f"netif_{name} xen_netif_{name}" for name in ("tx_sring_entry", "rx_sring_entry", "extra_info")]
    aliases += [f"netif_{name}_sring xen_netif_{name}_sring" for name in ("tx", "rx")]
    aliases += ["grant_entry_v1_t struct grant_entry_v1"]
    prelude = [
        LINK,
        "<stdbool.h>\n#define PAGE_SIZE 4096\n#define ETH_ALEN 6\ntypedef int64_t s64;\ntypedef int8_t s8;",
    ]
    defines = f"{TYPES}\n{_SEGMENTS_AT} u.rw.seg)" + "".join(f"\n#define {alias}" for alias in aliases)
    last = f"<xen/interface/io/xs_wire.h>\n{defines}"
    roots = [KERNEL_HEADERS[-1] / "include", KERNEL_HEADERS[-1] / "arch/x86/include"] if KERNEL_HEADERS else []
    return Source(
        [*prelude, *(f"<xen/interface/{name}.h>" for name in names), last],
        options=tuple(f"-I{root}" for root in roots),
        structures={name: _blkif_union(kind, STRUCTURES[name][0]) for name, kind in BLKIF_KINDS.items()},
        lacks=KERNEL_LACKS,
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(_libxen, id="libxen", marks=pytest.mark.skipif(not XEN.is_dir(), reason="run ci/setup")),
        pytest.param(
            _kernel, id="kernel", marks=pytest.mark.skipif(not KERNEL_HEADERS, reason="run harness images build")
        ),
    ],
)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int | str]:
    source: Source = request.param()
    structures = {name: structure for name, (structure, _, _, _) in STRUCTURES.items()}
    link = LinkLayout(4096, (3, 0))
    structures["link_info"] = Structure(
        "struct link_info",
        {
            "magic": "LINK_MAGIC",
            "version": "LINK_VERSION",
            "nr_frames": 4096,
            "domid": "{3, 0}",
            "peer": "{0, 1}",
            "vectors": "{8, 2}",
            "pending_frame": f"{{{link.pending_frame[0]}, {link.pending_frame[1]}}}",
            "mask_frame": f"{{{link.mask_frame[0]}, {link.mask_frame[1]}}}",
            "ports_frame": f"{{{link.ports_frame[0]}, {link.ports_frame[1]}}}",
            "grant_frame": link.grant_frame,
            "nr_grant_frames": layout.NR_GRANT_FRAMES,
            "max_grant_frames": layout.MAX_GRANT_FRAMES,
            "status_frame": link.status_frame,
            "nr_status_frames": layout.NR_STATUS_FRAMES,
            "first_free_frame": link.first_free_frame,
        },
    )
    structures["start_info"] = Structure(
        "struct start_info",
        {
            "magic": '"xen-3.0-x86_64"',
            "nr_pages": 4096,
            "store_mfn": link.store_frame,
            "store_evtchn": layout.GUEST_STORE_PORT,
            "console.domU.mfn": link.console_frame,
            "console.domU.evtchn": layout.GUEST_CONSOLE_PORT,
        },
    )
    structures["grant_entry"] = Structure("grant_entry_v1_t", {"flags": 1, "domid": 2, "frame": 3})
    return ask(
        tmp_path_factory.mktemp("abi"),
        source.includes,
        expressions=[name for name in CONSTANTS if name not in source.lacks],
        structures=structures | dict(source.structures),
        options=source.options,
    )


def test_constants(answers: dict[str, int | str]) -> None:
    assert CONSTANTS.keys() - answers.keys() <= KERNEL_LACKS
    assert {name: answers[name] for name in CONSTANTS if name in answers} == {
        name: value for name, value in CONSTANTS.items() if name in answers
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure(answers: dict[str, int | str], name: str) -> None:
    _, layout_of_ours, offset, expected = STRUCTURES[name]
    assert layout_of_ours.unpack_from(bytes.fromhex(str(answers[name])), offset) == expected


def test_whole_structures_that_we_write(answers: dict[str, int | str]) -> None:
    link = LinkLayout(4096, (3, 0))
    assert answers["link_info"] == link.pack_info().hex()
    assert answers["start_info"] == startinfo.pack_start_info(link).hex()
    assert answers["grant_entry"] == grants.pack_entry(1, 2, 3).to_bytes(8, "little").hex()
