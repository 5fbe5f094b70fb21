"""Reader of single VOC XML files."""

from __future__ import annotations

import pytest

from cgc.data.annotations import MalformedAnnotation
from cgc.data.voc import read_voc
from tests.data.boxed_fixture import voc, voc_object


def read(folder, text, encoding="utf-8"):
    (folder / "x.xml").write_text(text, encoding=encoding)
    return [(item.name, item.box, item.difficult) for item in read_voc(folder / "x.xml")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "refused"),
        ("<annotation><object><bndbox/></object></annotation>", "no name"),
        (voc(voc_object("cat", (1, 2, "three", 4))), "xmax is 'three'"),
        (voc(voc_object("cat", (1, 2, "nan", 4))), "not a number"),
        ("<annotation><object><name>cat</name></object></annotation>", "xmin is None"),
        ("", "not well-formed"),
    ],
)
def test_malformed_xml_is_refused_whole(tmp_path, text, reason):
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "x.xml").write_text(text, encoding=encoding)
        with pytest.raises(MalformedAnnotation, match=reason):
            read_voc(tmp_path / "x.xml")


def test_fractions_widen_to_the_pixels_that_they_touch(tmp_path):
    # 1-based: 45.7 lies in pixel 45 (0-based 44), 82.2 in 82; xmax 120.0 is the end of pixel 119, 0-based
    assert read(tmp_path, voc(voc_object("cat", (45.7, 82.2, "120.0", "99.1")))) == [
        ("cat", (44, 81, 119, 99), False)
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("start", ["", "\n  "])
def test_byte_order_marks_empty_lines_and_odd_names(tmp_path, encoding, start):
    declared = "utf-16" if encoding == "utf-16" else "utf-8"
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    text = (start if encoding == "utf-8" else "") + head + voc(voc_object("Köter &amp; Co / 7", (1, 2, 3, 4)))
    assert read(tmp_path, text, encoding) == [("Köter & Co / 7", (0, 1, 2, 3), False)]


def test_tags_count_whatever_their_case_and_namespace(tmp_path):
    inner = "<v:Name>cat</v:Name><v:BndBox><v:XMin>1</v:XMin><YMIN>2</YMIN><xmax>3</xmax><Ymax>4</Ymax></v:BndBox>"
    text = (
        f'<v:Annotation xmlns:v="urn:x"><v:OBJECT>{inner}<Difficult>1</Difficult></v:OBJECT></v:Annotation>'
    )
    assert read(tmp_path, text) == [("cat", (0, 1, 2, 3), True)]
    assert read(tmp_path, text.replace(' xmlns:v="urn:x"', "")) == [("cat", (0, 1, 2, 3), True)]


def test_parts_of_an_object_and_the_image_around_it_do_not_count(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></part>"
    text = voc(voc_object("person", (1, 1, 9, 9)), head="<name>sheet</name><size><width>0</width></size>")
    assert read(tmp_path, text.replace("<name>person", f"{part}<name>person")) == [
        ("person", (0, 0, 8, 8), False)
    ]
    grouped = voc(f"<group>{voc_object('a', (1, 1, 2, 2))}</group>", voc_object("b", (3, 3, 4, 4)))
    assert [name for name, *_ in read(tmp_path, grouped)] == ["a", "b"]


def test_a_name_broken_over_lines_stays_on_one(tmp_path):
    assert read(tmp_path, voc(voc_object("wild\n\t dog ", (1, 1, 2, 2))))[0][0] == "wild dog"


def test_the_line_is_named(tmp_path):
    with pytest.raises(MalformedAnnotation, match=r"line 3, column \d+: mismatched tag"):
        read(tmp_path, "<annotation>\n<object>\n</annotation>\n")
    with pytest.raises(MalformedAnnotation, match=r"line 4, column \d+: mismatched tag"):
        read(tmp_path, '\n<?xml version="1.0"?>\n<a>\n</b>\n')
    with pytest.raises(MalformedAnnotation, match="line 2: object 1 has no name"):
        read(tmp_path, "<annotation>\n<object>\n</object>\n</annotation>\n")


def test_absurd_files_are_refused_not_followed(tmp_path):
    with pytest.raises(MalformedAnnotation, match="deeper than 100"):
        read(tmp_path, "<a>" * 200_000 + "</a>" * 200_000)
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    with pytest.raises(MalformedAnnotation, match="refused"):
        read(tmp_path, f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a>&l11;</a>')
    with pytest.raises(MalformedAnnotation, match="not well-formed"):
        read(tmp_path, '<?xml version="1.0" encoding="klingon"?><a/>')
    with pytest.raises(MalformedAnnotation, match="Is a directory"):
        read_voc(tmp_path)
    huge = "9" * 400
    with pytest.raises(MalformedAnnotation, match="not a number"):  # more than a float holds
        read(tmp_path, voc(voc_object("cat", (1, 1, huge, 2))))
