"""One table of text cells, for people: in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lmms_plam.report.page import scrolled

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Table:
    """A table and what its reader must know.

    Attributes:
        title: a line above it.
        columns: the headings; the first `labels` are words, the others numbers.
        rows: the cells; a cell may have several lines.
        notes: lines below it.
        labels: number of leading columns that are words, aligned left.
        together: number of columns after these that stay in one row, however narrow the screen.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    labels: int = 1
    together: int = 1

    def fit(self, width: int) -> list[Table]:
        """Return tables for a screen that is so many characters wide, the words repeated in each and notes in none.

        Where the widest number fits beside the words, these stay whole; else they get half of the screen, and are
        folded there. The columns that stay together may take more.
        """

        def room(place: int) -> int:
            return 2 + max(len(line) for row in (self.columns, *self.rows) for line in row[place].split("\n"))

        words, places = list(range(self.labels)), range(self.labels, len(self.columns))
        for_words = sum(map(room, words))
        if for_words + max((room(place) for place in places), default=0) > width + 2:
            for_words = min(for_words, width // 2)
        for_numbers = width + 2 - for_words
        parts: list[list[int]] = [[]]
        for place in places:
            kept = place < self.labels + self.together
            if parts[-1] and not kept and sum(map(room, [*parts[-1], place])) > for_numbers:
                parts.append([])
            parts[-1].append(place)
        return [self._select([*words, *part], "" if number else self.title) for number, part in enumerate(parts)]

    def without_empty_columns(self) -> Table:
        """Return the table without the columns that have nothing in any row."""
        there = [place for place in range(len(self.columns)) if any(row[place] for row in self.rows)]
        return replace(self._select(there, self.title), notes=self.notes)

    def to_rich(self) -> RichTable:
        """Return it for the terminal."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for place, heading in enumerate(self.columns):
            is_label = place < self.labels
            table.add_column(
                heading,
                justify="left" if is_label else "right",
                overflow="fold",
                no_wrap=not is_label,  # the words give way where the screen is narrow
            )
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return it as GitHub's Markdown."""
        rules = [":--" if place < self.labels else "--:" for place in range(len(self.columns))]
        head, *body = [" | ".join(map(_markdown_cell, row)) for row in (self.columns, *self.rows)]
        lines = [f"| {line} |" for line in (head, " | ".join(rules), *body)]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        title = [f"**{self.title}**", ""] if self.title else []
        return "\n".join([*title, *lines, *notes, ""])

    def to_html(self) -> str:
        """Return it as an HTML fragment, its title for those alone who can't see it."""

        def line(cells: Sequence[str], tag: str) -> str:
            kinds = ["label" if place < self.labels else "number" for place in range(len(cells))]
            return "".join(
                f'<{tag} class="{kind}">{_html_cell(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True)
            )

        body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        head = line(self.columns, "th")
        table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
        return scrolled(table, self.title or "table") + (f"<ul>{notes}</ul>\n" if notes else "")

    def to_latex(self) -> str:
        """Return it as LaTeX's `tabular` with booktabs' rules, its title and notes as comments above.

        A cell of several lines is a stack of them.
        """
        kinds = "l" * self.labels + "r" * (len(self.columns) - self.labels)
        head, *body = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (self.columns, *self.rows)]
        said = [f"% {line}" for text in (self.title, *self.notes) for line in text.split("\n")]
        rows = [
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join([*said, *rows, ""])

    def _select(self, places: Sequence[int], title: str) -> Table:
        columns, *rows = [[row[place] for place in places] for row in (self.columns, *self.rows)]
        return replace(self, title=title, columns=columns, rows=rows, notes=())


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}
"""How signs are written that mean something else; a bracket does behind a line's end."""


def _latex_cell(cell: str) -> str:
    """Return a cell as LaTeX, whose signs mean something else there; a cell of several lines as a stack of them."""
    lines = ["".join(_LATEX.get(sign, sign) for sign in line) for line in cell.split("\n")]
    stacked = r" \\ ".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack{{{stacked}}}"


def _markdown_cell(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", "<br>")


def _html_cell(cell: str) -> str:
    return html.escape(cell).replace("\n", "<br>")
