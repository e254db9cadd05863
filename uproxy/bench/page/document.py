"""The page: what came out first, then every workload with its doubts, then the machine.

Owns the order of things. Everything is inside the file; a Content-Security-Policy that allows no
source at all holds it to that. Complete without JavaScript, which only lets paths be hidden.
"""

from collections.abc import Iterable
from importlib.resources import files

from uproxy.bench.columns import warnings_of
from uproxy.bench.figures import live_after_us
from uproxy.bench.glance import HINT, Cell, glance
from uproxy.bench.page.bars import bar_chart_height
from uproxy.bench.page.charts import cpu_chart, endpoint_chart, memory_chart, throughput_chart, wait_chart
from uproxy.bench.page.latency import curves_of, latency_chart
from uproxy.bench.page.markup import Markup, element, joined
from uproxy.bench.page.palette import Look, looks
from uproxy.bench.page.tables import figures_table, machine_table
from uproxy.bench.results import Measurement, Results
from uproxy.bench.titles import is_bulk, title
from uproxy.bench.verdict import PathVerdict, verdict

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(results: Results) -> str:
    """Lay out report.html."""
    chosen = looks(m.path for m in results.measurements)
    by_workload: dict[str, list[Measurement]] = {}
    for m in results.measurements:
        by_workload.setdefault(m.workload, []).append(m)
    body = element(
        "body",
        _header(results),
        _alarms(results),
        _glance(results, chosen),
        _verdict(results, chosen),
        _legend(chosen, by_workload),
        *(_workload(name, measured, chosen) for name, measured in by_workload.items()),
        _machine(results),
        _method(),
        element("script", Markup(_own("page.js"))),
    )
    return "<!doctype html>\n" + element("html", _head(), body, lang="en")


def _own(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _head() -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),  # else browsers ask for /favicon.ico
        element("title", "What each path costs: uproxy bench"),
        element("style", Markup(_own("page.css"))),
    )


def _header(results: Results) -> Markup:
    machine = results.machine
    where = f"{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}; {_day(results.started)}"
    return element("header", element("h1", "What each path to a pod costs"), element("p", where))


def _day(started: str) -> str:
    return started.partition("T")[0]


def _alarms(results: Results) -> Markup:
    """What concerns the whole run, before anything that could be believed."""
    alarms = list(results.warnings)
    if not results.complete:
        alarms.insert(0, "This run was interrupted: rounds, or whole measurements, are missing.")
    if not results.measurements:
        alarms.append("Nothing was measured.")
    return _warnings(alarms)


def _warnings(texts: Iterable[str]) -> Markup:
    items = [element("li", text) for text in texts]
    return element("ul", *items, class_="warnings", role="note") if items else Markup("")


def _glance(results: Results, chosen: dict[str, Look]) -> Markup:
    found = glance(results)
    if not found.rows:
        return Markup("")
    heads = [element("th", head, scope="col") for head in ("path", *found.heads)]
    rows = [
        element(
            "tr",
            element("th", row.path, scope="row", class_=chosen[row.path].css_class),
            *(_glance_cell(cell) for cell in row.cells),
        )
        for row in found.rows
    ]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    return element(
        "section",
        element("h2", "At a glance"),
        element("div", table, class_="scroll", tabindex="0"),
        element("p", HINT, class_="note"),
        id="glance",
    )


def _glance_cell(cell: Cell) -> Markup:
    text = element("b", cell.text) if cell.is_best else cell.text
    sign = element("span", "~", class_="caveat", title="doubtful: see its warnings")
    doubt = sign if cell.is_doubtful else ""
    return element("td", text, doubt, class_="best" if cell.is_best else None)


def _verdict(results: Results, chosen: dict[str, Look]) -> Markup:
    found = verdict(results)
    if not found.paths:
        none = "No path was compared with direct, so there is nothing to conclude: see the figures."
        return element("section", element("h2", "In short"), element("p", none), class_="verdict")
    note = (
        f"From {', '.join(found.basis)}. Paths are said to differ only where 95 % intervals over rounds do; "
        "the intervals are in the charts and tables below. CPU is that of the proxy's programs alone."
    )
    return element(
        "section",
        element("h2", "In short"),
        element("ul", *(element("li", line) for line in found.ranking), class_="ranking"),
        element("ul", *(_path_verdict(one, chosen[one.path]) for one in found.paths), class_="paths"),
        element("p", note, class_="note"),
        class_="verdict",
    )


def _path_verdict(one: PathVerdict, look: Look) -> Markup:
    says = f" {one.says}." if one.says else ""
    caveat = element("span", f" {one.caveat}", class_="caveat") if one.caveat else ""
    return element("li", element("b", one.path), says, caveat, class_=look.css_class)


def _legend(chosen: dict[str, Look], by_workload: dict[str, list[Measurement]]) -> Markup:
    paths = [_legend_entry(path, look) for path, look in chosen.items()]
    links = [element("a", name, href=f"#{name}") for name in by_workload]
    return element(
        "nav",
        element("div", *paths, class_="legend"),
        element("div", *links, class_="contents"),
        aria_label="Paths and workloads",
    )


def _legend_entry(path: str, look: Look) -> Markup:
    line = element("path", d="M0 6H26", class_="curve", stroke_dasharray=look.dash or None)
    sample = element("svg", line, viewBox="0 0 26 12", class_="sample", aria_hidden="true")
    box = element("input", type="checkbox", checked="checked", value=path)
    return element("label", box, sample, path, class_=look.css_class)


def _workload(name: str, measured: list[Measurement], chosen: dict[str, Look]) -> Markup:
    return element(
        "section",
        element("h2", title(name), " ", element("code", name) if title(name) != name else ""),
        _warnings(warnings_of(measured)),
        element("div", *_figures(measured, chosen), class_="figures"),
        figures_table(measured, chosen),
        id=name,
        class_="workload",
    )


def _figures(measured: list[Measurement], chosen: dict[str, Look]) -> list[Markup]:
    curves = curves_of(measured, chosen)
    bulk = is_bulk(measured[0].workload)
    charts = [
        (
            "Latency by percentile",
            _LATENCY,
            latency_chart(curves, _beside(len(measured))) if curves else None,
        ),
        ("Throughput, as times direct", _WHISKERS, throughput_chart(measured, chosen)),
        ("CPU for a gigabyte" if bulk else "CPU for an operation", _CPU, cpu_chart(measured, chosen)),
        ("Memory for a connection", _MEMORY, memory_chart(measured, chosen)),
        ("Longest stall", "", wait_chart(measured, chosen, "Longest stall", lambda m: m.longest_stall_ms)),
        (
            "Live after",
            _WHISKERS,
            wait_chart(measured, chosen, "Live after", lambda m: m.live_after_ms, live_after_us),
        ),
        *((f"{m.path}: who got how many", _evenness(m), endpoint_chart(m, chosen[m.path])) for m in measured),
    ]
    return [
        element(
            "figure",
            element("figcaption", element("b", head), " ", element("span", note)),
            chart,
            class_="tall" if note is _LATENCY else None,
        )
        for head, note, chart in charts
        if chart is not None
    ]


def _evenness(m: Measurement) -> str:
    if m.spread is None:
        return ""
    chance = m.spread.chi_squared_p
    share = f"{chance:.0%}" if chance >= 0.01 else "less than 1%"
    busiest = f"Busiest {m.spread.max_over_mean:.2f}x the mean (line)"
    return f"{busiest}; chance alone is as uneven in {share} of runs."


def _beside(rows: int) -> int:
    """Height of the latency chart: that of the two bar charts to its right, within reason."""
    return min(max(2 * bar_chart_height(rows) + _CAPTION, 300), 520)


_CAPTION = 40

_LATENCY = "From the intended send time. A line ends where fewer than ten waits are left to tell."
_WHISKERS = "Whiskers are 95 % intervals over rounds."
_CPU = joined(
    [
        element("i", "", class_="key proxy"), "proxy ",
        element("i", "", class_="key server"), "server ",
        element("i", "", class_="key client"), "client; hatched: in the kernel",
    ]
)  # fmt: skip
_MEMORY = joined(
    [element("i", "", class_="key proxy"), "proxy ", element("i", "", class_="key client kernel"), "kernel"]
)


def _machine(results: Results) -> Markup:
    left_out = [f"{path}: {reason}" for path, reason in results.left_out.items()]
    parts = [element("h2", "Machine"), machine_table(results)]
    if left_out:
        parts += [element("h3", "Left out"), element("ul", *(element("li", text) for text in left_out))]
    return element("section", *parts, id="machine")


def _method() -> Markup:
    texts = (
        "Paths take turns within each round, so a path and its baseline are measured within seconds of "
        "each other. Ratios and added latencies are medians of what each round says by itself, so `x direct` "
        "may differ from the quotient of the two medians beside it; they are to be trusted before absolute "
        "figures, which belong to the machine and its mood.",
        "An interval holds the true median in 95 of 100 such runs: by the sign test, interpolated, from "
        "six rounds on; by Student's t with fewer. Two paths differ when their intervals do not meet.",
        "Latency counts from the moment a request should have been sent, so a path that stalls cannot "
        "hide the requests it held up. The uncorrected figure beside it counts from the actual sending.",
        "CPU is of each program's own time, user and kernel. Work that the kernel does in softirq can be "
        "charged to whichever program was interrupted.",
    )
    return element(
        "section", element("h2", "How to read this"), *(element("p", text) for text in texts), class_="method"
    )
