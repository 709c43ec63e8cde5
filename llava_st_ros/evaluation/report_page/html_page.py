"""Pages from the templates of this package: escaped, self-contained, closed to other scripts."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from llava_st_ros import __version__
from llava_st_ros.evaluation.report_page.texts import clean

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Return a page.

    Every text is escaped. The page's content security policy allows this package's script by its
    hash, so that nothing that data could contain runs or is loaded.

    Args:
        template: The file's name.
        values: The template's values; ``title`` and ``sections``, pairs of id and name, for all.
    """
    from markupsafe import Markup

    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            values,
            version=__version__,
            style=Markup(_asset("page.css")),  # files of this package
            script=Markup(script),
            script_hash=f"sha256-{digest}",
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        autoescape=True,
        loader=PackageLoader("llava_st_ros.evaluation.report_page", "."),
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalized(value: Any) -> Any:
    """A text from data as it may be in HTML; markup of this package is left as it is."""
    return clean(value) if type(value) is str else value


def _asset(name: str) -> str:
    return (files("llava_st_ros.evaluation.report_page") / name).read_text(encoding="utf-8")
