"""The charts of a committed notebook are drawn and can be used before anything has been run, in either theme."""

import pytest
from playwright.sync_api import expect

NOTEBOOK = "02_where_did_the_time_go.ipynb"


@pytest.fixture
def charts(jupyter, lab_page):
    """The drawn charts of a notebook that nobody has run."""
    jupyter.add(f"notebooks/{NOTEBOOK}")
    lab_page.open(NOTEBOOK)
    return lab_page.page.locator(".vega-embed svg")


@pytest.fixture
def timeline(charts):
    """The first timeline, in view."""
    found = charts.filter(has_text="host: stages").first
    found.scroll_into_view_if_needed()
    return found


def ticks(chart):
    """The numbers on a timeline's axis: what part of it is shown."""
    axis = chart.locator("[aria-label^='X-axis']").last
    return set(axis.locator(".role-axis-label text").all_text_contents())


def test_every_chart_is_drawn_without_running_anything(charts):
    expect(charts).to_have_count(5)


def test_a_timeline_zooms_with_ctrl_and_the_wheel_and_leaves_the_wheel_alone_to_the_page(lab_page, timeline):
    page = lab_page.page
    assert {"0", "160"} <= ticks(timeline)
    timeline.hover(position={"x": 400, "y": 120})  # among the lanes
    page.mouse.wheel(0, 10)
    page.wait_for_timeout(300)
    assert {"0", "160"} <= ticks(timeline)
    timeline.hover(position={"x": 400, "y": 120})
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_timeout(300)
    assert not {"0", "160"} & ticks(timeline)


def test_a_bar_says_what_it_is(lab_page, timeline):
    timeline.locator(".mark-rect path").first.hover()
    expect(lab_page.page.locator("#vg-tooltip-element")).to_contain_text("encode")
