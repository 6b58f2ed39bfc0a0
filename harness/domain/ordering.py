"""In which order domains start: whoever serves another one's devices comes before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from harness.domain.definition import Definition
from harness.host.errors import UsageError


def start_order(definitions: Sequence[Definition], running: Collection[str]) -> list[Definition]:
    """Definitions in an order in which their domains can start; where it does not matter, it is the one given.

    :param running: the names of the driver domains that are there already.
    :raise UsageError: two have one name, a back end is neither among them nor running or is no driver domain, or
        domains would have to wait for each other; says which.
    """
    by_name: dict[str, Definition] = {}
    for definition in definitions:
        if definition.name in by_name:
            raise UsageError(f"two of the definitions are of a domain called {definition.name}")
        by_name[definition.name] = definition
    for definition in definitions:
        for backend in definition.backends:
            _check(definition, backend, by_name, running)
    # Those that run have nobody to wait for.
    waits_for = {name: [one for one in by_name[name].backends if one in by_name] for name in by_name}
    try:
        return [by_name[name] for name in TopologicalSorter(waits_for).static_order()]
    except CycleError as error:
        # It goes from each to those that wait for it.
        circle = " waits for ".join(reversed(error.args[1]))
        raise UsageError(
            f"these domains can never start: {circle}", hint="take one 'backend' out of their definitions"
        ) from None


def _check(definition: Definition, backend: str, by_name: dict[str, Definition], running: Collection[str]) -> None:
    """Check that a back end of a domain exists, or will."""
    if backend == definition.name:
        raise UsageError(f"domain {definition.name} is its own back end", hint="a disk of its own needs no 'backend'")
    if backend in by_name:
        if not by_name[backend].driver_domain:
            raise UsageError(
                f"domain {definition.name} has {backend} as a back end, which is no driver domain",
                hint=f"add driver-domain: true to {by_name[backend].file}",
            )
    elif backend not in running:
        raise unknown_backend(definition.name, backend)


def unknown_backend(name: str, backend: str, saved: Path | None = None) -> UsageError:
    """The error for a back end that is not there.

    :param saved: the file that the domain is to be restored from; None: it is to be created.
    """
    both = f"start both, in whatever order: harness create {backend}.yaml {name}.yaml"
    first = f"start that first: harness create {backend}.yaml; then: harness restore {saved}"
    return UsageError(
        f"domain {name} has {backend} as a back end, and no driver domain of that name runs",
        hint=both if saved is None else first,
    )
