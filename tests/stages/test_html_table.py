"""A table in HTML: what is text stays text, whatever is in it."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from reslab.stages.support import Cell, Markup, html_table

TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1)


class Read(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.titles = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.titles += [value for name, value in attributes if name == "title"]

    def handle_data(self, data):
        self.texts.append(data)


@given(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
def test_every_text_is_read_back_as_it_was_and_adds_no_tag(caption, title, heading, text, hint):
    read = Read(html_table((title,), [heading, (Cell(text, hint),)], caption=caption))
    assert read.tags == ["table", "caption", "thead", "tr", "th", "tbody", "tr", "th", "tr", "td"]
    assert ("".join(read.texts), read.titles) == (caption + title + heading + text, [hint])


def test_markup_is_kept():
    assert Read(html_table((), [(Markup("<b>denoise</b>"),)])).tags == ["table", "tbody", "tr", "td", "b"]


def test_a_column_has_its_style_and_a_cell_its_own():
    page = html_table(("a", "b"), [("1", Cell("2", style="color:red"))], styles=["text-align:right"])
    assert page.count('style="text-align:right"') == 2
    assert '<th style="text-align:left">b</th>' in page
    assert '<td style="color:red">2</td>' in page


def test_a_heading_spans_all_columns():
    assert '<th colspan="3" style="text-align:left">half size</th>' in html_table("abc", ["half size"])
