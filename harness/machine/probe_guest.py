"""A guest of 300 bytes that tells an accelerator which works from one which only seems to.

It is a 64 KiB boot ROM. It goes the way every kernel goes (real mode, protected mode, paging, long mode), then does
:data:`ITERATIONS` read-modify-writes over a mebibyte, lets the timer interrupt wake it from ``hlt``, and ends QEMU
through the ``isa-debug-exit`` device. The amount of work matters: there are hosts on which KVM interprets the guest's
kernel mode instruction by instruction, so that a few instructions succeed and a kernel never comes up. Emulation does
the same work in well under a second.

The code is written down as bytes, each line with the assembly it was made from, so that no assembler is needed; the
unit tests run it.
"""

from __future__ import annotations

ITERATIONS = 0x0800_0000
EXIT_PORT = 0xF4
EXIT_VALUE = 0x2A
EXIT_STATUS = EXIT_VALUE << 1 | 1
"""What QEMU exits with when the guest has written EXIT_VALUE to isa-debug-exit."""

ROM_SIZE = 0x10000
RESET_VECTOR = 0xFFF0

_CODE = (
    # -- real mode; the ROM also shows up at physical 0xf0000, where everything below is linked to
    "fa",  # cli
    "2e 66 0f 01 16 18 01",  # lgdtl %cs:0x118
    "0f 20 c0  0c 01  0f 22 c0",  # cr0 |= PE
    "66 ea 18 00 0f 00 08 00",  # ljmpl $0x08, $0xf0018
    # -- 0x18: protected mode
    "b8 10 00 00 00",  # movl $0x10, %eax
    "8e d8  8e c0  8e d0",  # movl %eax to %ds, %es, %ss
    "c7 05 00 10 00 00  03 20 00 00",  # level 4 table at 0x1000: entry 0 -> 0x2000
    "c7 05 00 20 00 00  03 30 00 00",  # level 3 table at 0x2000: entry 0 -> 0x3000
    "c7 05 00 30 00 00  83 00 00 00",  # level 2 table at 0x3000: entry 0 -> the first 2 MiB
    "c7 05 08 30 00 00  93 00 e0 fe",  # entry 1 -> the local APIC, uncached
    "b8 00 10 00 00  0f 22 d8",  # cr3 = 0x1000
    "b8 20 00 00 00  0f 22 e0",  # cr4 = PAE
    "b9 80 00 00 c0  0f 32  0d 00 01 00 00  0f 30",  # EFER |= LME
    "0f 20 c0  0d 00 00 00 80  0f 22 c0",  # cr0 |= PG
    "ea 7b 00 0f 00 18 00",  # ljmp $0x18, $0xf007b
    # -- 0x7b: long mode
    "bc 00 80 00 00",  # movl $0x8000, %esp
    "b9" + ITERATIONS.to_bytes(4, "little").hex(),  # movl $ITERATIONS, %ecx
    "89 ca  81 e2 f8 ff 0f 00",  # again: edx = ecx & 0xffff8
    "48 01 8a 00 00 10 00",  # addq %rcx, 0x100000(%rdx)
    "ff c9  75 ed",  # decl %ecx; jnz again
    "c7 04 25 00 42 00 00  f0 00 18 00",  # interrupt gate 0x20 at 0x4200: 0x18:0xf00f0
    "c7 04 25 04 42 00 00  00 8e 0f 00",
    "0f 01 1c 25 1e 01 0f 00",  # lidt 0xf011e
    "c7 04 25 f0 00 20 00  ff 01 00 00",  # local APIC: enable,
    "c7 04 25 50 03 20 00  00 07 00 00",  # LINT0 = ExtINT, so that the PIC is heard
    "b0 11 e6 20  b0 20 e6 21  b0 04 e6 21  b0 01 e6 21",  # PIC: interrupt 0 is vector 0x20
    "b0 fe e6 21",  # PIC: only the timer
    "b0 34 e6 43  b0 ff e6 40  b0 10 e6 40",  # PIT: every 0x10ff ticks
    "fb",  # sti
    "f4  eb fd",  # wait: hlt; jmp wait
    # -- 0xf0: the timer's interrupt
    f"b0 {EXIT_VALUE:02x}  e6 {EXIT_PORT:02x}",  # outb $EXIT_VALUE, $EXIT_PORT
    "f4  eb fd",  # stop: hlt; jmp stop
    "90",
    # -- 0xf8: GDT: null, 32-bit code, data, 64-bit code
    "00 00 00 00 00 00 00 00",
    "ff ff 00 00 00 9b cf 00",
    "ff ff 00 00 00 93 cf 00",
    "ff ff 00 00 00 9b af 00",
    "1f 00  f8 00 0f 00",  # 0x118: GDT's limit and base
    "0f 02  00 40 00 00 00 00 00 00",  # 0x11e: IDT's limit and base
)

_RESET = "e9 0d 00"  # jmp 0


def rom() -> bytes:
    """The boot ROM, for QEMU's ``-bios``."""
    image = bytearray(ROM_SIZE)
    code = bytes.fromhex("".join(_CODE))
    reset = bytes.fromhex(_RESET)
    image[: len(code)] = code
    image[RESET_VECTOR : RESET_VECTOR + len(reset)] = reset
    return bytes(image)
