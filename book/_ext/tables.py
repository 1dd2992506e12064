"""Tables of numbers, as a reader expects them.

A data frame names its rows in a row of its own under the columns' names. On a page the head is one
row, with the names of the rows over them; what the columns are called stands over these columns.
Columns of words are set to the left, and a number has a true minus.
"""

import re

from bs4 import BeautifulSoup, Tag

MINUS = "\N{MINUS SIGN}"
FRAME = re.compile(r'<table\b[^>]*\bclass="dataframe\b.*?</table>', re.DOTALL)
NUMBERS = re.compile(r"(<t[dh]\b[^>]*>)(\s*-?[\d.][-+\d.,e%\[\] ×÷±]*)(?=</t[dh]>)")
NUMBER = re.compile(r"\s*[-+−±×÷]?\s*\.?\d")


def true_minus(page: str) -> str:
    """The page with true minus signs in those cells of tables that are numbers."""
    return NUMBERS.sub(lambda cell: cell[1] + cell[2].replace("-", MINUS), page)


def flatten(page: str) -> str:
    """The page with one row in the head of each data frame, where that says the same."""
    return FRAME.sub(lambda table: _flat(table[0]), page)


def _flat(text: str) -> str:
    soup = BeautifulSoup(text, "html.parser")
    head, body = soup.thead, soup.tbody
    if head is None or body is None or not body.tr:
        return text
    names = len(body.tr.find_all("th"))
    rows = [row.find_all(["th", "td"]) for row in head.find_all("tr")]
    if len(rows) > 1 and not any(cell.get_text(strip=True) for cell in rows[-1][names:]):
        _join(soup, rows, names)
    _mark_words(soup, names)
    return str(soup)


def _join(soup: BeautifulSoup, rows: list[list[Tag]], names: int) -> None:
    """Put the names of the rows, the last row of the head, into the row above it."""
    *_, columns, lone = rows
    called = " ".join(filter(None, (cell.get_text(strip=True) for cell in columns[:names])))
    for cell, name in zip(columns[:names], lone[:names], strict=True):
        cell.string = name.get_text(strip=True)
    lone[0].parent.decompose()
    if called:  # what the columns are is said once, over all of them
        row = soup.new_tag("tr", attrs={"class": "bn-over"})
        row.append(soup.new_tag("td", attrs={"colspan": str(names)}))
        over = soup.new_tag("th", attrs={"colspan": str(len(columns) - names)})
        over.string = called
        row.append(over)
        columns[0].parent.insert_before(row)


def _mark_words(soup: BeautifulSoup, names: int) -> None:
    """Mark the columns in which no cell is a number, and the names of rows."""
    body = [row.find_all("td") for row in soup.tbody.find_all("tr")]
    head = soup.thead.find_all("tr")[-1].find_all("th")
    for cell in head[:names]:
        cell["class"] = ["bn-words"]
    for place in range(1, len(body[0]) + 1):  # from the right: a name may span rows
        column = [row[-place] for row in body if len(row) >= place]
        if not any(NUMBER.match(cell.get_text()) for cell in column):
            for cell in [*column, *head[-place : len(head) - place + 1]]:
                cell["class"] = ["bn-words"]


def set_tables(app, page, template, context, doctree):
    """Work on the tables of a page."""
    if "<table" in context.get("body", ""):
        context["body"] = true_minus(flatten(context["body"]))


def setup(app):
    """Connect the hook; Sphinx calls this."""
    app.connect("html-page-context", set_tables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
