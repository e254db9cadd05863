"""The tables: every figure of a workload, one row for each path; and what the machine was."""

from uproxy.bench.columns import Column, facts, filled
from uproxy.bench.page.markup import Markup, element
from uproxy.bench.page.palette import Look
from uproxy.bench.results import Measurement, Results
from uproxy.bench.titles import is_spoilt


def figures_table(measurements: list[Measurement], looks: dict[str, Look]) -> Markup:
    """One workload."""
    columns = filled(measurements)
    heads = [element("th", column.head, scope="col", title=column.hint or None) for column in columns]
    return _scrolling(
        element("thead", element("tr", element("th", "path", scope="col"), *heads)),
        element("tbody", *(_row(m, columns, looks[m.path]) for m in measurements)),
    )


def _row(m: Measurement, columns: list[Column], look: Look) -> Markup:
    cells = [
        element("td", column.cell(m), class_="bad" if column.head == "errors" and m.errors else None)
        for column in columns
    ]
    return element(
        "tr",
        element("th", m.path, scope="row", class_=look.css_class),
        *cells,
        class_="spoilt" if is_spoilt(m) else None,
    )


def machine_table(results: Results) -> Markup:
    """Where and how it ran."""
    pairs = facts(results)
    rows = (element("tr", element("th", name, scope="row"), element("td", text)) for name, text in pairs)
    return _scrolling(element("tbody", *rows), kind="facts")


def _scrolling(*content: Markup, kind: str | None = None) -> Markup:
    """A table that scrolls by itself where it is wider than the page."""
    return element("div", element("table", *content, class_=kind), class_="scroll", tabindex="0")
