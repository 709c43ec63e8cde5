"""Numbers and texts of a page: the examples in the docstrings."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from llava_st_ros.evaluation import comparison, metric_definitions
from llava_st_ros.evaluation.report_page import charts, texts, timelines


@pytest.mark.parametrize("module", [charts, comparison, metric_definitions, texts, timelines])
def test_the_examples_hold(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed
