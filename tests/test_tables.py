"""The tables of results say what the JSON files say that they are made from."""

from pathlib import Path

import pytest

from docs.tables import BLOCK, PAGES, TABLES, render


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_figures(page: Path) -> None:
    assert page.read_text() == render(page.read_text()), "python -m docs.tables makes them anew"


def test_every_table_is_shown_somewhere() -> None:
    assert {block[1] for page in PAGES for block in BLOCK.finditer(page.read_text())} == set(TABLES)


def test_a_table_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        render("<!-- table: nothing -->\n<!-- end -->")
