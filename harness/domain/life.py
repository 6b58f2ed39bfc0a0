"""The life of a domain, from its definition to its end, as its owner leads it."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.backend import launch as backend_launch
from harness.bus.devices import Device
from harness.domain import driver, saving, starting
from harness.domain import warm as templates
from harness.domain.assembly import Holdings, Parts, assemble, hold
from harness.domain.crashes import Crashes
from harness.domain.definition import Definition
from harness.domain.devices import Devices
from harness.domain.facts import QMP_SECONDS, DomainFacts
from harness.domain.hands import Hands
from harness.domain.leases import Lease
from harness.domain.restoring import Saved
from harness.domain.serving import Serving
from harness.domain.session import QUIT_SECONDS, Session
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, HarnessError, HostError, UsageError
from harness.image.build import build
from harness.machine import loop
from harness.machine.accelerator import choose

BOOT_SECONDS = {"kvm": 60.0, "tcg": 180.0}
"""What a guest gets from its start to its agent's answer; an emulated one shares its core with others."""
SHUTDOWN_SECONDS = 60.0
SAVE_SECONDS = 300.0
FORGET_SECONDS = 10.0
CRASHES = "crashes.log"
"""Among a domain's logs: what it has survived."""


class DomainState(StrEnum):
    """CREATED → STARTING → RUNNING ⇄ PAUSED, and from any of them → ENDED.

    A domain that starts anew after a crash is STARTING again; one that is kept after it is CRASHED.
    """

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    ENDED = "ended"


class DomainLife(DomainFacts):
    """One domain's life, without what there is to do with its guest: that is :class:`harness.domain.domain.Domain`.

    Launch it in a thread that lives as long as the domain: its processes die with that thread. When its guest crashes,
    once it has been ready, what its definition says is done about that. Every call that needs the guest raises, besides
    what it says itself:

    :raise UsageError: the domain is not in a state that allows the call.
    :raise GuestError: the guest crashed, ended, or did not answer in time; with its last console lines.
    :raise HostError: a process that serves the domain ended.

    :param definition: what it consists of.
    :param accelerator: ``auto``, ``kvm`` or ``tcg``.
    :param shared_lease: a lease held by the caller on an image that several domains take turns on.
    :param logs: an existing directory for its logs; default: a new one.
    :param backend: the Python module to run as the backend process of a paravirtual domain; for drivers that are to
        meet a backend written for that, see :func:`harness.backend.launch.start_backend`.
    :param saved: what to go on from instead of booting, see :meth:`restore`; the domain closes it.
    """

    def __init__(
        self,
        definition: Definition,
        *,
        accelerator: str = "auto",
        shared_lease: Lease | None = None,
        logs: Path | None = None,
        backend: str = backend_launch.MODULE,
        saved: Saved | None = None,
    ) -> None:
        super().__init__(definition, logs)
        self.state: DomainState = DomainState.CREATED
        self._accelerator_request = accelerator
        self._shared_lease = shared_lease
        self._backend_module = backend
        self._saved = saved
        self._template: Saved | None = None
        self._reserve: Saved | None = None
        self._saved_to: Path | None = None
        self._stack = ExitStack()
        self._with_qemu = ExitStack()
        self._ending = threading.Event()
        self._replacing = threading.Lock()
        self._crashes: Crashes | None = None
        self._serving: Serving | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    @classmethod
    def restore(
        cls, file: Path, *, name: str | None = None, accelerator: str = "auto", logs: Path | None = None
    ) -> Self:
        """The domain that :meth:`save` has written to a file; its start is going on where it was. The file stays.

        :param name: of the new domain; default: as before.
        :raise UsageError: there is no such file, or it is damaged or not valid here.
        """
        saved = Saved(file)
        try:
            definition = saved.definition if name is None else saved.definition.renamed(name)
            wanted = saved.accelerator if accelerator == "auto" else accelerator
            return cls(definition, accelerator=wanted, logs=logs, saved=saved)
        except BaseException:
            saved.close()
            raise

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self, *, warm: bool = False) -> None:
        """Launch it and wait until it is ready; as :meth:`launch`."""
        self.launch(warm=warm)
        self.wait_ready()

    def prepare(self, *, warm: bool = False) -> None:
        """Do now what takes its time only once on a machine: build the image, probe the accelerator, boot a template.

        :param warm: as for :meth:`launch`.
        """
        build(self.definition.image)
        choose(self._accelerator_request)
        if self._needs_template(warm=warm):
            self._make_template().close()

    def launch(self, *, warm: bool = False) -> None:
        """Start its processes and let the guest boot; does not wait for the guest.

        :param warm: the guest is not to boot, but to go on from one that has: see :mod:`harness.domain.warm`.
        :raise UsageError: such a domain cannot start warm.
        :raise HarnessError: something is missing, in use, or does not start; nothing is left behind then.
        """
        self._require(DomainState.CREATED)
        self.state = DomainState.STARTING
        try:
            driver.require(self.definition, None if self._saved is None else self._saved.file)
            if self._needs_template(warm=warm):
                self._reserve = self._stack.enter_context(self._make_template())
            self._template = self._reserve if warm else None
            held = hold(
                self.definition,
                self._accelerator_request,
                self._shared_lease,
                self._log_directory,
                self._stack,
                self._saved,
            )
            self._log_directory = held.logs
            if self.definition.driver_domain:
                self._serving = self._serve(held)
            self._stack.callback(self._with_qemu.close)
            self._launch(held)
        except BaseException:
            self.destroy()
            raise

    def _serve(self, held: Holdings) -> Serving:
        record = held.record
        serving = Serving(self.name, record.domid, Hands(self), record.driver_socket, held.logs / "clients.log")
        self._stack.callback(serving.close)
        return serving

    def _needs_template(self, *, warm: bool) -> bool:
        """Whether the guest is to go on from a template, now or after a crash, when whoever it serves waits for it."""
        return warm or (self._restarts and templates.is_possible(self.definition))

    def _make_template(self) -> Saved:
        templates.require_possible(self.definition)
        image, chosen = build(self.definition.image), choose(self._accelerator_request)

        def boot(definition: Definition, file: Path) -> None:
            with DomainLife(definition, accelerator=chosen.name) as domain:
                domain.start()
                domain.save(file)

        return templates.template(self.definition, image, chosen, boot)

    def _launch(self, held: Holdings) -> None:
        """Start what goes with a QEMU, and let the guest boot, or go on from where it was saved."""
        warm = self._template is not None
        self._parts = parts = assemble(
            self.definition, held, self._backend_module, self._with_qemu, self._saved, warm=warm
        )
        # That of the QEMU before has ended, and this one has none until it runs.
        self._session = None
        self._devices = Devices(self.name, parts, self._wait_forgotten)
        held.record.addresses = self.addresses
        self._set_state(DomainState.STARTING)
        loop.run(parts.qemu.connect(Deadline(QMP_SECONDS, f"a greeting from QEMU of domain {self.name}")))
        starting.load(self.name, parts, self._saved, self._template)
        loop.run(self._run(parts))
        if parts.paravirtual is not None and self._saved is not None:
            parts.paravirtual.link.ring_granter()
            parts.served.ring()

    async def _run(self, parts: Parts) -> None:
        self._session = Session(self.name, parts)
        await parts.qemu.cont()

    def _wait_forgotten(self, device: Device) -> None:
        """Wait until the guest's bus has removed a device that is gone: another one may come under its name."""
        path = f"/sys/bus/pvbus/devices/{device.kind}-{self.parts.booted_domid}-{device.devid}"
        argv = ["sh", "-c", 'while [ -e "$1" ]; do sleep 0.02; done', "sh", path]
        self.session.execute(argv, timeout=FORGET_SECONDS).check()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the agent answers and the devices work.

        :param timeout: seconds; default: what the accelerator needs.
        """
        self._require(DomainState.STARTING)
        seconds = BOOT_SECONDS[self.accelerator.name] if timeout is None else timeout
        deadline = Deadline(seconds, f"the boot of domain {self.name} until agent and devices work")
        session = self.session
        session.guarded(session.agent.ping(deadline), deadline)
        # Before there are links to driver domains, which take the first place that is free.
        if self._template is not None:
            starting.wait_plugged(self.name, self.parts, session, deadline)
        elif self._saved is None:
            starting.wait_found(self.parts, session, deadline)
        starting.wait_devices(self.parts, self._plugs, session, deadline, restored=self._saved is not None)
        if self._saved is not None or self._template is not None:
            # Its own went on from where it was.
            session.execute(["date", "-u", "-s", f"@{time.time():.0f}"], timeout=deadline.left).check()
        if self._saved is None:
            starting.configure_cards(self.definition, self.parts, session, deadline)
        self._set_state(DomainState.RUNNING)
        if self._serving is not None:
            self._serving.up()
        if self.definition.on_crash != "destroy" and self._crashes is None:
            self._crashes = Crashes(self.name, self._wait_over, self._after_crash, restart=self._restarts)

    # -- after a crash -------------------------------------------------------------------------------------------------

    @property
    def _restarts(self) -> bool:
        return self.definition.on_crash == "restart"

    def _wait_over(self) -> str:
        return loop.run(self.session.monitor.wait_over())

    def _after_crash(self, error: GuestError) -> None:
        """Take apart what has gone with the QEMU, and start it anew if that is wanted.

        :raise HarnessError: the domain does not come up again, or is being destroyed.
        """
        parts = self.parts
        with (parts.logs / CRASHES).open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {error}\n")
        if self._restarts:
            self._set_state(DomainState.STARTING)
        if self._serving is not None:
            self._serving.down()
        self._end_qemu()
        self._with_qemu.close()
        if not self._restarts:
            self._set_state(DomainState.CRASHED)
            return
        # Who wants the end says so first, and then ends the session that there is: this one, or none was made.
        with self._replacing:
            if self._ending.is_set():
                raise UsageError(f"domain {self.name} was ended before it could start anew")
            # Its images are no longer what the guest that was saved knew.
            self._close_saved()
            self._template = self._reserve
            parts.record.restarts += 1
            if not parts.held.image.kernel.exists():
                # Of a recipe's images the last few are kept, and a domain may live longer.
                parts.held.image = build(self.definition.image)
            self._relaunch(parts.held)
        self.wait_ready()

    def _relaunch(self, held: Holdings) -> None:
        """Let it start from the template if it has one, and boot if that does not fit any more."""
        try:
            self._launch(held)
        except (HostError, UsageError) as error:
            if self._template is None:
                raise
            # A new version of QEMU was installed meanwhile, or the image is not that any more.
            with (held.logs / CRASHES).open("a") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} it boots instead: {error}\n")
            self._quit_qemu()
            self._with_qemu.close()
            self._template = None
            self._launch(held)

    def _close_saved(self) -> None:
        if self._saved is not None:
            self._saved.close()
            self._saved = None

    # -- the end -------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop its virtual CPUs."""
        self._require(DomainState.RUNNING)
        loop.run(self.parts.qemu.stop(), Deadline(QMP_SECONDS, f"the pause of domain {self.name}"))
        self._set_state(DomainState.PAUSED)

    def unpause(self) -> None:
        """Let its virtual CPUs run on."""
        self._require(DomainState.PAUSED)
        loop.run(self.parts.qemu.cont(), Deadline(QMP_SECONDS, f"the end of the pause of domain {self.name}"))
        self._set_state(DomainState.RUNNING)

    def save(self, file: Path, timeout: float = SAVE_SECONDS) -> None:
        """Write it to a file, from which :meth:`restore` makes it again, and take it apart.

        Images that live as long as the domain are copied to the directory ``FILE.disks``; its other ones stay where
        they are, and nobody may write to them meanwhile. Nobody else can read the file, which has the guest's memory.

        :raise UsageError: it serves others, whose ends of the links would not be saved, or has a disk in its memory.
        :raise HostError: it cannot be written. The domain then goes on.
        """
        self.suspend(file, timeout)
        self.destroy()

    def suspend(self, file: Path, timeout: float = SAVE_SECONDS) -> None:
        """As :meth:`save`, but the domain, whose QEMU has ended, is still to be destroyed."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"saving domain {self.name}")
        with self._serving.at_rest() if self._serving is not None else nullcontext():
            saving.save(self.definition, self.parts, self.session, self._plugs, file, deadline)
            self._saved_to = file
            self._set_state(DomainState.PAUSED)
            self.end()

    def shutdown(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Have the guest shut itself down, and take the domain apart when it has.

        :raise GuestSilent: it is still there after ``timeout`` seconds, and goes on.
        """
        self.power_off(timeout)
        self.destroy()

    def power_off(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Have the guest shut itself down, and return when it has; the domain is still to be destroyed.

        :raise GuestSilent: it is still there after ``timeout`` seconds, and goes on.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"the shutdown of domain {self.name}")
        session = self.session
        loop.get().call_soon_threadsafe(session.monitor.expect_end)
        session.guarded(session.agent.shutdown(deadline), deadline)
        session.guarded(session.monitor.wait_end(deadline), deadline)

    def wait_end(self) -> str:
        """Wait until the guest ends by itself, or another thread ends it; says in words how it did.

        The domain is still to be destroyed. One that starts anew after a crash has not ended, nor has one that is kept.
        """
        how = self._wait_over() if self._crashes is None else self._crashes.ended.result()
        return how if self._saved_to is None else f"it was saved to {self._saved_to}"

    def end(self) -> None:
        """Have QEMU end at once, which whoever is in :meth:`wait_end` hears of; the domain is still to be destroyed."""
        self._ending.set()
        with self._replacing:
            # There is none if it could not start anew.
            if self._session is not None:
                loop.run(self._session.end())
        if self._crashes is not None:
            self._crashes.give_up()

    def destroy(self) -> None:
        """End it at once and remove all of it but its logs. May be called in any state, and again."""
        self._ending.set()
        self._end_qemu()
        if self._crashes is not None:
            self._crashes.close()
            # It may have been just about to start another.
            self._end_qemu()
        self._set_state(DomainState.ENDED)
        self._close_saved()
        self._stack.close()
        if self._parts is not None:
            # Also those that were attached later.
            for one in self._parts.disks:
                one.release()
        self._parts = None

    def _end_qemu(self) -> None:
        # Whoever destroys a domain may meet the thread here that looks after its crashes.
        with self._replacing:
            self._quit_qemu()

    def _quit_qemu(self) -> None:
        if self._parts is not None:
            with suppress(HarnessError):
                loop.run(self._quit(self._parts), Deadline(2 * QUIT_SECONDS, f"the end of domain {self.name}"))

    async def _quit(self, parts: Parts) -> None:
        if self._session is not None:
            await self._session.quit()
        else:
            await parts.qemu.quit(Deadline(QUIT_SECONDS, f"the end of QEMU of domain {self.name}"))

    def _require(self, *states: DomainState) -> None:
        if self.state not in states:
            raise UsageError(f"domain {self.name} is {self.state}, not {' or '.join(states)}")

    def _set_state(self, state: DomainState) -> None:
        self.state = state
        if self._parts is not None:
            self._parts.record.state = state
            self._parts.record.write()
