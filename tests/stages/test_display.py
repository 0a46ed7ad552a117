"""A pipeline as a table and a diagram: escaped, the same every time, and true."""

import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode

import pytest

from reslab.stages import Pipeline, Stage, stage


@stage(writes=("half_width", "half_height"))
def halve(width, height=64):
    return {"half_width": width // 2, "half_height": height // 2}


class Decode(Stage):
    components = ("vae",)
    writes = ("frames",)

    def run(self, vae, half_width, strength=1.0):
        return {"frames": vae}


def video():
    pipeline = Pipeline({"vae": 1, "unused": 2}, name="video", result="frames")
    return pipeline.add(halve, group="prepare").add(Decode, name="decode", group="decode", given={"strength": 0.5})


def table(html):
    """The table's rows as lists of texts."""
    rows = ElementTree.fromstring(re.search(r"<table>.*</table>", html)[0].replace("<wbr>", "")).iter("tr")
    return [["".join(cell.itertext()) for cell in row] for row in rows]


def svgs(html):
    """The images of the diagrams, which are SVG."""
    images = re.findall(r'src="data:image/svg\+xml;base64,(.*?)"', html)
    return [ElementTree.fromstring(b64decode(image)) for image in images]


def test_table_has_a_row_a_stage_under_its_groups_heading():
    assert table(video()._repr_html_()) == [
        ["", "stage", "of class", "components", "reads", "writes"],
        ["prepare"],
        ["1", "halve", "", "", "width", "half_width, half_height"],
        ["decode"],
        ["2", "decode", "Decode", "vae", "half_width", "frames"],
    ]


def test_names_break_between_words_alone():
    html = Pipeline().add(stage(lambda: None), name="LTX2LoRASwitchStage")._repr_html_()
    assert "LTX2<wbr>LoRA<wbr>Switch<wbr>Stage" in html


def test_head_says_what_a_request_needs_and_what_comes_back():
    text = re.sub("<.*?>", "", video()._repr_html_().split("<table>")[0])
    assert text == "video: 2 stages, 2 components; needs width; returns frames"


def test_names_are_shown_as_the_pipeline_has_them():
    pipeline = Pipeline({"tiny": 1}).add(
        Decode, components={"vae": "tiny"}, values={"half_width": "width", "frames": "preview"}
    )
    assert table(pipeline._repr_html_())[1] == ["1", "Decode", "", "tiny", "width", "preview"]


def test_profile_names_are_shown_where_they_differ():
    pipeline = Pipeline({"vae": 1}, profile_names="first-keeps-class").add(halve, name="own")
    assert table(pipeline._repr_html_())[:2] == [
        ["", "stage", "profile name", "of class", "components", "reads", "writes"],
        ["1", "own", "halve", "halve", "", "width", "half_width, half_height"],
    ]


def test_long_lists_are_cut_and_told_in_full_on_hovering():
    many = stage(writes=tuple("abcde"))(lambda: None)
    html = Pipeline().add(many, name="many")._repr_html_()
    assert table(html)[1][-1] == "a, b, c +2"
    assert 'title="a, b, c, d, e"' in html


def test_diagram_has_a_dot_where_a_stage_names_a_component_and_a_bar_for_each_value_handed_on():
    dots, bars = svgs(video()._repr_html_())
    circles, rects = ([e for e in svg.iter() if e.tag.endswith(tag)] for svg, tag in ((dots, "circle"), (bars, "rect")))
    assert [circle[0].text for circle in circles] == ["decode"]
    assert [rect[0].text for rect in rects] == ["half_width: written by stage 1, last read by stage 2"]
    left, right = (float(e.get("x")) for e in dots.iter() if e.get("text-anchor") == "middle")
    assert float(circles[0].get("cx")) == right
    assert (float(rects[0].get("x")), float(rects[0].get("width"))) == (left, right - left)


def test_each_diagram_has_its_caption_as_alternative_text():
    assert re.findall(r'<img alt="(.*?):', video()._repr_html_()) == ["Stages from left to right"] * 2


@pytest.mark.parametrize("text", ["<h1>&", "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>"])
def test_every_name_is_escaped(text):
    pipeline = Pipeline({text: 1}, name=text, result=text, profile_names="first-keeps-class")
    show = stage(writes=text)(lambda vae, value: None)
    show.__name__ = text
    pipeline.add(show, name=text, components={"vae": text}, values={"value": text}, group=text)
    pipeline.add(show, name=text + "2", values={"vae": text}, group=text)
    html = pipeline._repr_html_()
    assert set(re.findall(r"</?([a-z]+)", html)) <= {
        "div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "span", "img", "small", "details", "summary",
        "wbr", "i",
    }  # fmt: skip
    drawn = {element.tag.rpartition("}")[2] for svg in svgs(html) for element in svg.iter()}
    assert drawn <= {"svg", "text", "circle", "title", "rect"}
    assert [row[1] for row in table(html)[2:]] == [text, text + "2"]


def test_display_is_the_same_every_time():
    assert video()._repr_html_() == video()._repr_html_()
    assert "0x" not in video()._repr_html_()


def test_empty_pipeline_can_be_shown():
    assert "0 stages, 0 components; needs nothing; returns all values" in re.sub("<.*?>", "", Pipeline()._repr_html_())
