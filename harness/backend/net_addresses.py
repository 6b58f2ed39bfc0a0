"""The addresses of the guests on the private network."""

from __future__ import annotations

from collections import deque

from harness.backend.namespace import guest_address, guest_mac
from harness.host.errors import HostError


class Addresses:
    """Guest numbers 2..254; the one that has been free for longest goes first."""

    def __init__(self) -> None:
        self._free = deque(range(2, 255))
        self._macs: dict[str, str] = {}

    def take(self, mac: str | None, address: str | None = None) -> tuple[str, str]:
        """An address and its MAC, or the address and the MAC that were asked for.

        :raise HostError: all addresses, or this MAC or this address, are in use.
        """
        if mac is not None and mac in self._macs.values():
            raise HostError(f"the MAC address {mac} is in use by another guest")
        if not self._free:
            raise HostError("all guest addresses of the private network are in use")
        number = self._free.popleft() if address is None else self._take_out(address)
        self._macs[guest_address(number)] = mac or guest_mac(number)
        return guest_address(number), self._macs[guest_address(number)]

    def _take_out(self, address: str) -> int:
        number = next((number for number in self._free if guest_address(number) == address), None)
        if number is None:
            raise HostError(
                f"the address {address} is in use by another guest, or is none of the private network",
                hint="find which has it: harness list",
            )
        self._free.remove(number)
        return number

    def of(self, mac: str) -> str | None:
        """The address of the guest that has this MAC, if one has it."""
        return next((address for address, one in self._macs.items() if one == mac), None)

    def give_back(self, address: str) -> None:
        del self._macs[address]
        self._free.append(int(address.rpartition(".")[2]))
