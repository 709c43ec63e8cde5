"""XML files, bounded in size, depth and number of elements, without a document type.

A document type is what defines entities: without it nothing expands and nothing else is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.files.limits import DEPTH, XML_BYTES, XML_ELEMENTS
from llava_st_ros.files.raw import read_bytes


@dataclass(slots=True)
class XmlElement:
    """An element.

    Attributes:
        tag: Its name.
        attributes: The values of its attributes, by name.
        line: The line of the file in which it starts.
        text: The text directly in it.
        children: The elements directly in it.
    """

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list[XmlElement] = field(default_factory=list)

    def child(self, *path: str) -> XmlElement | None:
        """Return the first element at a path of tags, None if there is none."""
        found: XmlElement | None = self
        for tag in path:
            found = next((c for c in found.children if c.tag == tag), None) if found else None
        return found


class _InvalidError(Exception):
    """What is wrong with the content."""


def read_xml(
    path: Path, error: type[LlavaStError], remedy: str = "", *, max_bytes: int = XML_BYTES
) -> XmlElement:
    """Read an XML file and return its outermost element.

    Args:
        path: The file, in UTF-8 or the encoding that it declares.
        error: The class of the error to raise.
        remedy: What the user can do about a file that cannot be read.
        max_bytes: The largest accepted size.

    Raises:
        LlavaStError: An ``error``: the file cannot be read, is too large or nested too deeply, is
            not XML, or has a document type.
    """
    data = read_bytes(path, error, remedy, max_bytes=max_bytes)
    return parse_xml(data, str(path), error, remedy)


def parse_xml(data: bytes, name: str, error: type[LlavaStError], remedy: str = "") -> XmlElement:
    """Parse XML as ``read_xml`` does; errors begin with ``name``."""
    reader = _Reader()
    try:
        return reader.read(data)
    except expat.ExpatError as problem:
        what = expat.ErrorString(problem.code)
        raise error(
            f"{name} is not valid XML: {what} at line {problem.lineno}, column {problem.offset}",
            remedy,
        ) from problem
    # LookupError, ValueError: an encoding that is unknown or not of single bytes.
    except (_InvalidError, LookupError, ValueError) as problem:
        raise error(f"{name} is not valid XML: {reason_of(problem)}", remedy) from problem


class _Reader:
    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text
        self._parser.StartDoctypeDeclHandler = self._reject_document_type
        self._open: list[XmlElement] = []
        self._texts: list[list[str]] = []  # the parts of the text of each open element
        self._root: XmlElement | None = None
        self._count = 0

    def read(self, data: bytes) -> XmlElement:
        self._parser.Parse(data, True)
        if self._root is None:
            raise _InvalidError("it has no element")
        return self._root

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        self._count += 1
        if self._count > XML_ELEMENTS:
            raise _InvalidError(f"it has more than {XML_ELEMENTS} elements")
        if len(self._open) >= DEPTH:
            raise _InvalidError(f"elements are nested more than {DEPTH} deep at line {line}")
        element = XmlElement(tag, attributes, line)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element
        self._open.append(element)
        self._texts.append([])

    def _end(self, tag: str) -> None:
        self._open.pop().text = "".join(self._texts.pop())

    def _add_text(self, text: str) -> None:
        if self._texts and not text.isspace():
            self._texts[-1].append(text)

    def _reject_document_type(self, *declaration: object) -> None:
        raise _InvalidError(
            f"line {self._parser.CurrentLineNumber} has a document type (DOCTYPE), which is not "
            "accepted"
        )
