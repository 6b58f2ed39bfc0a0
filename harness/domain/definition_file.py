"""Reads a domain's definition from a YAML file and checks it as far as it can be without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from harness.domain.definition import NAME, NAME_EXPECTED, Definition, Disk, Kind, OnCrash
from harness.domain.definition_disks import read_disks
from harness.domain.definition_networks import read_networks
from harness.domain.definition_yaml import Value, format_size, load_document

MIB = 1 << 20

MEMORY_MINIMUM = 128 * MIB
"""With less, the stock kernel and a small initramfs run out of memory while they boot."""
MEMORY_DEFAULT = 256 * MIB
MEMORY_MAXIMUM = 1 << 40
VCPUS_MAXIMUM = 64
PMEM_MEMORY_MINIMUM = 192 * MIB
PMEM_PER_MEMORY = 64
"""Linux keeps account of so many bytes of a disk in a guest's memory in one, which is not there for anything else."""
CONSOLES_MAXIMUM = 4

KEYS = (
    "name",
    "kind",
    "driver-domain",
    "on_crash",
    "image",
    "memory",
    "vcpus",
    "consoles",
    "disks",
    "networks",
)


def load(file: Path) -> Definition:
    """Read and check a definition.

    Paths in it are relative to the directory of the file.

    :raise DefinitionError: names the file, the line, the key and what was expected.
    """
    return define(load_document(file))


def define(document: Value) -> Definition:
    """Make a definition of a document.

    :raise DefinitionError: as :func:`load`.
    """
    found = document.mapping(KEYS)
    if "kind" not in found:
        raise document.error("the key 'kind' is missing", expected="kind: hvm, or kind: pv")
    kind = cast(Kind, found["kind"].choice(get_args(Kind)))
    driver = _driver_domain(found["driver-domain"], kind) if "driver-domain" in found else False
    memory = found["memory"].size(MEMORY_MINIMUM, MEMORY_MAXIMUM, MIB) if "memory" in found else MEMORY_DEFAULT
    disks = read_disks(found["disks"], kind, driver=driver) if "disks" in found else ()
    _check_memory(found.get("memory", document), memory, disks)
    return Definition(
        name=_name(document, found.get("name")),
        kind=kind,
        image=found["image"].matching(NAME, "the name of an image recipe") if "image" in found else "minimal",
        memory=memory // MIB,
        vcpus=found["vcpus"].integer(1, VCPUS_MAXIMUM) if "vcpus" in found else 1,
        consoles=_consoles(found["consoles"], kind) if "consoles" in found else 1,
        disks=disks,
        networks=read_networks(found["networks"], kind, driver=driver) if "networks" in found else (),
        file=document.file,
        driver_domain=driver,
        on_crash=cast(OnCrash, found["on_crash"].choice(get_args(OnCrash))) if "on_crash" in found else "destroy",
    )


def _name(document: Value, value: Value | None) -> str:
    if value is not None:
        return value.matching(NAME, NAME_EXPECTED)
    name = document.file.stem
    if not NAME.fullmatch(name):
        raise document.error("the key 'name' is missing, and the file's name will not do", expected=NAME_EXPECTED)
    return name


def _check_memory(value: Value, memory: int, disks: Sequence[Disk]) -> None:
    """Check that the guest can keep account of the disks in its memory, and has enough for itself then."""
    mapped = sum(disk.size for disk in disks if disk.model == "virtio-pmem")
    need = PMEM_MEMORY_MINIMUM + -(-mapped // PMEM_PER_MEMORY // MIB) * MIB
    if mapped and memory < need:
        raise value.error(
            f"{format_size(memory)} of memory, and disks of model virtio-pmem with {format_size(mapped)} in all",
            expected=f"{format_size(need)} at least: the guest needs a {PMEM_PER_MEMORY}th of the disks' size for them",
        )


def _driver_domain(value: Value, kind: Kind) -> bool:
    if value.boolean() and kind != "pv":
        raise value.error(
            f"a driver domain of kind {kind}", expected="kind: pv, since its back ends need a link to the others"
        )
    return value.boolean()


def _consoles(value: Value, kind: Kind) -> int:
    if kind != "pv":
        raise value.error(f"paravirtual consoles in a domain of kind {kind}", expected="this key with kind: pv only")
    return value.integer(1, CONSOLES_MAXIMUM)
