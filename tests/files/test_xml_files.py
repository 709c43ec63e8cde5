"""The loader of XML: elements with their lines, and what it does not accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.files import xml_files
from llava_st_ros.files.xml_files import parse_xml, read_xml


def test_elements_have_attributes_text_children_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<a>\n <b c="1 &lt; 2">x &amp; y</b>\n <b/>\n <d><e>z</e></d>\n</a>')
    root = read_xml(path, DataError)
    assert [(c.tag, c.line) for c in root.children] == [("b", 2), ("b", 3), ("d", 4)]
    assert root.children[0].attributes == {"c": "1 < 2"}
    assert root.children[0].text == "x & y"
    found = root.child("d", "e")
    assert found is not None and found.text == "z"
    assert root.child("d", "x") is None and root.child("x", "e") is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no element found at line 1"),
        (b"<a><b></a>", "mismatched tag at line 1"),
        (b"<a>&x;</a>", "undefined entity"),
        (b"<a/><a/>", "junk after document element"),
        (b"<a b='1' b='2'/>", "duplicate attribute"),
        (b"<a>\xff</a>", "not well-formed"),
        (b"<?xml version='1.0' encoding='nothing'?><a/>", "unknown encoding"),
        (b"<?xml version='1.0' encoding='shift-jis'?><a/>", "multi-byte encodings"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]>\n<a>&x;</a>', "line 1 has a document type (DOCTYPE)"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type (DOCTYPE)"),
        (b"<a>" * 65 + b"</a>" * 65, "nested more than 64 deep"),
    ],
)
def test_anything_else_is_one_line_with_the_files_name(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_xml(data, "run.xml", DataError)
    assert message in str(caught.value) and "run.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_size_and_number_of_elements_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<a>" + "<b/>" * 20 + "</a>")
    with pytest.raises(DataError, match="larger than"):
        read_xml(path, DataError, max_bytes=50)
    monkeypatch.setattr(xml_files, "XML_ELEMENTS", 20)
    with pytest.raises(DataError, match="more than 20 elements"):
        read_xml(path, DataError)


def test_encodings_of_single_bytes_are_read() -> None:
    text = "<?xml version='1.0' encoding='iso-8859-1'?><a>\N{LATIN SMALL LETTER E WITH ACUTE}</a>"
    root = parse_xml(text.encode("iso-8859-1"), "x", DataError)
    assert root.text == "\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert parse_xml("<a>x</a>".encode("utf-16"), "x", DataError).text == "x"
