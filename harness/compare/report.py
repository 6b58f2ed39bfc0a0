"""The comparison for people: a table on the terminal, and the same as one HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from harness.bus.features import Notification
from harness.compare.results import PAIRS, Results
from harness.compare.statistics import compare, summarise
from harness.compare.subjects import PATHS, STRATEGIES
from harness.compare.workloads import ALL, FAIRNESS, BlockWorkload, Metric, Workload

STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def quantity(value: float, unit: str) -> str:
    """A figure with three digits and an SI prefix: ``12.3 kIOPS``, ``85.0 µs``."""
    shown = {"1/s": "IOPS", "bit/s": "bit/s"}.get(unit, unit)
    for factor, prefix in STEPS:
        if abs(value) >= factor:
            scaled = value / factor
            digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
            return f"{scaled:.{digits}f} {prefix}{shown}"
    return f"0 {shown}"


def _advantage(results: Results, a: str, b: str, workload: str, metric: Metric) -> str:
    """How many times as good a is as b, with the 95 % interval; more than 1 is always better for a."""
    left, right = results.samples(a, workload, metric), results.samples(b, workload, metric)
    ratio = compare(left, right) if metric.better == "higher" else compare(right, left)
    return f"{ratio.ratio:.2f}× [{ratio.low:.2f}–{ratio.high:.2f}]"


def _table(results: Results, workloads: Sequence[Workload], paths: Sequence[str]) -> list[list[str]]:
    """Rows of one table: a header, then one row for each workload."""
    pairs = [pair for pair in PAIRS if pair[0] in paths and pair[1] in paths]
    rows = [["workload", *paths, *(f"{a} / {b}" for a, b in pairs)]]
    for workload in workloads:
        metric = workload.headline
        cells = []
        for path in paths:
            boots = results.samples(path, workload.name, metric)
            cells.append(quantity(summarise(boots).median, metric.unit) if boots else "–")
        advantages = [
            _advantage(results, a, b, workload.name, metric)
            if results.samples(a, workload.name, metric) and results.samples(b, workload.name, metric)
            else "–"
            for a, b in pairs
        ]
        rows.append([workload.name, *cells, *advantages])
    return rows


def tables(results: Results) -> list[list[list[str]]]:
    """The block table and the network table, each only if something of it was measured."""
    block_names = {name for name, workload in ALL.items() if isinstance(workload, BlockWorkload)}
    measured = {workload for _, workload, _ in results.measured()}
    found = []
    for is_block in (True, False):
        workloads = [w for name, w in ALL.items() if name in measured and (name in block_names) == is_block]
        names = {workload.name for workload in workloads}
        paths = list(dict.fromkeys(path for path, workload, _ in results.measured() if workload in names))
        if workloads:
            found.append(_table(results, workloads, paths))
    return found


def strategy_rows(results: Results) -> list[list[str]]:
    """Which notification strategy wins where, and by how much against the next one; only a header if none compete."""
    rows = [["notification", "workload", "best", "against the next"]]
    for paths in STRATEGIES:
        for workload in ALL.values():
            metric = workload.headline
            rated = []
            for strategy, path in paths.items():
                boots = results.samples(path, workload.name, metric)
                if boots:
                    rated.append((summarise(boots).median, strategy.value, path))
            if len(rated) < 2:
                continue
            rated.sort(reverse=metric.better == "higher")
            (_, best, path), (_, second, other), *_ = rated
            advantage = _advantage(results, path, other, workload.name, metric)
            rows.append([paths[Notification.ADAPTIVE], workload.name, best, f"{advantage} {second}"])
    return rows


def sharing_rows(results: Results) -> list[list[str]]:
    """What several domains get out of one driver domain, and how evenly; only a header if none share."""
    rows = [["sharing a driver domain", "workload", "domains", "together", "slowest's share"]]
    for path, workload, metric in results.measured():
        if metric != FAIRNESS:
            continue
        headline = ALL[workload].headline
        total = summarise(results.samples(path, workload, headline)).median
        share = summarise(results.samples(path, workload, FAIRNESS)).median / PATHS[path].clients
        cells = [str(PATHS[path].clients), quantity(total, headline.unit), f"{share:.0%}"]
        rows.append([path, workload, *cells])
    return rows


def count_rows(results: Results) -> list[list[str]]:
    """Events per operation: a header and a row for each count; only the header when nothing was counted."""
    rows = [["events per operation", "workload", "path", "count"]]
    return rows + [[c.count, c.workload, c.path, f"{c.per_operation:.2f}"] for c in results.counts]


def _extra_rows(results: Results) -> list[list[list[str]]]:
    """The tables besides those of the paths, each only if there is something in it."""
    found = (strategy_rows(results), sharing_rows(results), count_rows(results))
    return [rows for rows in found if len(rows) > 1]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def _facts(results: Results) -> list[str]:
    host, guest = results.host, results.guest
    return [
        f"{host.accelerator} ({host.accelerator_reason})",
        f"{host.cpu}, {host.cores} cores, Linux {host.kernel}, QEMU {host.qemu}; guest Linux {guest.kernel}",
        "medians; a ratio above 1 means the left path is better, with its 95 % interval over the rounds",
    ]


def text(results: Results) -> str:
    """The report for a terminal."""
    parts = ["\n".join(_facts(results)), *map(_aligned, tables(results))]
    parts += [_aligned(rows) for rows in _extra_rows(results)]
    return "\n\n".join(parts)


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}
table{border-collapse:collapse;margin:1.5em 0}th,td{padding:.3em .8em;text-align:right;border-bottom:1px solid #ccc}
th:first-child,td:first-child{text-align:left}"""


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(rows[0], "th") + "".join(line(row, "td") for row in rows[1:]) + "</table>"


def page(results: Results) -> str:
    """The report as one self-contained HTML page."""
    facts = "".join(f"<p>{html.escape(fact)}</p>" for fact in _facts(results))
    body = "".join(map(_html_table, tables(results)))
    body += "".join(_html_table(rows) for rows in _extra_rows(results))
    title = f"Device paths compared, {html.escape(results.started)}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{title}</h1>{facts}{body}</body></html>\n'
