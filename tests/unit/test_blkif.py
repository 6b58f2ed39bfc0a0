"""Block requests: what is written is what is read, in two steps and without reading anything twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ring import blkif
from harness.ring.blkif import Operation
from harness.ring.ring import ring_size
from tests.unit.abi import Structure, ask

U8, U16 = st.integers(0, 255), st.integers(0, 0xFFFF)
U32, U64 = st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFFFFFFFFFF)
SEGMENT = st.tuples(U32, U8, U8)


def slot() -> memoryview:
    """One entry that still holds what somebody has left in it."""
    return memoryview(bytearray(b"\xaa" * blkif.ENTRY_SIZE))


@given(U64, U64, st.lists(SEGMENT, max_size=blkif.MAX_SEGMENTS))
def test_requests(request_id: int, sector: int, segments: list[tuple[int, int, int]]) -> None:
    memory = slot()
    blkif.pack_request(memory, 0, Operation.WRITE, request_id=request_id, sector=sector, segments=segments)
    operation, count, handle, *rest = blkif.REQUEST.unpack_from(memory)
    assert (operation, handle, rest) == (Operation.WRITE, 0, [request_id, sector])
    flat = blkif.SEGMENTS[count].unpack_from(memory, blkif.TAIL)
    assert flat == tuple(number for segment in segments for number in segment)


@given(U64, U64, U16, st.lists(U32, max_size=blkif.MAX_INDIRECT_PAGES))
def test_indirect_requests(request_id: int, sector: int, count: int, pages: list[int]) -> None:
    memory = slot()
    blkif.pack_indirect(memory, 0, Operation.READ, request_id=request_id, sector=sector, segments=count, pages=pages)
    assert blkif.REQUEST.unpack_from(memory) == (Operation.INDIRECT, Operation.READ, count, request_id, sector)
    _, *found = blkif.INDIRECT.unpack_from(memory, blkif.TAIL)
    assert found == pages + [0] * (blkif.MAX_INDIRECT_PAGES - len(pages))


@given(U64, U64, U64)
def test_discards(request_id: int, sector: int, sectors: int) -> None:
    memory = slot()
    blkif.pack_discard(memory, 0, request_id=request_id, sector=sector, sectors=sectors, flags=blkif.DISCARD_SECURE)
    assert blkif.REQUEST.unpack_from(memory) == (Operation.DISCARD, blkif.DISCARD_SECURE, 0, request_id, sector)
    assert blkif.DISCARD.unpack_from(memory, blkif.TAIL) == (sectors,)


def test_responses_leak_nothing() -> None:
    memory = slot()
    blkif.RESPONSE.pack_into(memory, 0, 0x1122334455667788, Operation.READ, blkif.Status.ERROR)
    assert bytes(memory[:16]).hex() == "887766554433221100" + "00" + "ffff" + "00000000"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="12 segments"):
        blkif.pack_request(slot(), 0, Operation.READ, request_id=1, sector=0, segments=[(8, 0, 7)] * 12)
    with pytest.raises(ValueError, match="9 indirect pages"):
        blkif.pack_indirect(slot(), 0, Operation.READ, request_id=1, sector=0, segments=1, pages=[8] * 9)


def test_the_layout_of_32_bit_frontends_is_that_of_a_32_bit_compiler(tmp_path: Path) -> None:
    """Which differs from the native one in the alignment of 64-bit numbers, and in nothing else."""
    abi = blkif.X86_32
    sizes = {
        "sizeof(union blkif_sring_entry)": abi.entry_size,
        "offsetof(struct blkif_request, seg)": abi.tail,
        "sizeof(struct blkif_response)": abi.response.size,
        "offsetof(struct blkif_request_indirect, handle)": abi.tail,
        "offsetof(struct blkif_request_discard, nr_sectors)": abi.tail,
        "__CONST_RING_SIZE(blkif, 4096)": ring_size(4096, abi.entry_size),
    }
    request = {
        "operation": 1,
        "nr_segments": 2,
        "handle": 3,
        "id": "0x1122334455667788",
        "sector_number": "0x99aabbccddee",
    }
    structures = {
        "request": (
            Structure("struct blkif_request", request),
            abi.request,
            (1, 2, 3, 0x1122334455667788, 0x99AABBCCDDEE),
            0,
        ),
        "indirect": (
            Structure("struct blkif_request_indirect", {"handle": 7, "indirect_grefs[0]": 8, "indirect_grefs[7]": 9}),
            abi.indirect,
            (7, 8, 0, 0, 0, 0, 0, 0, 9),
            abi.tail,
        ),
        "response": (
            Structure("struct blkif_response", {"id": 5, "operation": 6, "status": -2}),
            abi.response,
            (5, 6, -2),
            0,
        ),
    }
    answers = ask(
        tmp_path,
        ["<stdint.h>\n#pragma pack(4)", "<xen/io/blkif.h>"],
        expressions=list(sizes),
        structures={name: structure for name, (structure, _, _, _) in structures.items()},
    )
    assert {expression: answers[expression] for expression in sizes} == sizes
    for name, (_, layout, values, offset) in structures.items():
        assert layout.unpack_from(bytes.fromhex(str(answers[name])), offset) == values
