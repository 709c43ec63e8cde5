"""Any results that can be read give a page, files and a comparison, or one line of error."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.comparison import compare, comparison_json
from llava_st_ros.evaluation.csv_tables import cases_csv, metrics_csv
from llava_st_ros.evaluation.frame_readers import NoFrames
from llava_st_ros.evaluation.gate import GateLimits, gate
from llava_st_ros.evaluation.report_page.comparison_page import comparison_html
from llava_st_ros.evaluation.report_page.report_files import write_report
from llava_st_ros.evaluation.results import read_results

texts = st.text(max_size=12) | st.sampled_from(["STVG", "stream", "<script>", "viou", "a\ud800"])
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(0, 1)
stamps = st.integers(-(2**62), 2**62) | st.integers(0, 10**10)
keys = st.sampled_from(["viou", "tiou", "stamp_to_answer", "detection_delay", "x y"])


def mappings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(keys, values, max_size=3)


timelines = st.none() | st.fixed_dictionaries(
    {
        "spans": st.lists(st.tuples(stamps, stamps).map(sorted), max_size=3),
        "boxes": st.lists(st.tuples(stamps, *[numbers] * 4).map(list), max_size=4),
    }
)
cases = st.fixed_dictionaries(
    {
        "id": texts,
        "source": texts,
        "task": texts,
        "query": texts,
        "values": mappings(numbers),
        "counts": mappings(st.tuples(numbers, numbers).map(list)),
        "samples": mappings(st.lists(numbers, max_size=3)),
        "expected": timelines,
        "predicted": timelines,
        "topic": texts,
        "problems": st.lists(texts, max_size=4),
    }
)
definitions = st.none() | st.fixed_dictionaries(
    {"kind": st.sampled_from(["mean", "ratio", "quantile"]), "key": keys},
    optional={"above": st.none() | numbers, "quantile": st.floats(0, 1)},
)
rows = st.fixed_dictionaries(
    {
        "task": texts,
        "metric": texts,
        "value": st.none() | numbers,
        "low": st.none() | numbers,
        "high": st.none() | numbers,
        "cases": st.integers(-5, 10),
    },
    optional={
        "convention": texts,
        "unit": texts,
        "lower_is_better": st.booleans(),
        "blind": st.none() | numbers,
        "definition": definitions,
    },
)
documents = st.fixed_dictionaries(
    {
        "format": st.just("llava_st_ros/results"),
        "version": st.just(1),
        "about": st.dictionaries(texts, texts | numbers | st.lists(texts, max_size=2), max_size=3)
        | st.fixed_dictionaries({"model": numbers, "seconds": numbers}),
        "metrics": st.lists(rows, max_size=4),
        "dropped": st.lists(texts, max_size=3),
        "latency": st.dictionaries(
            st.sampled_from(["tick", "encode"]), st.lists(numbers, max_size=3), max_size=2
        ),
        "cases": st.lists(cases, max_size=4),
    }
)


# Without shrinking: a failing example of this size would be reduced for minutes.
@settings(max_examples=40, phases=[Phase.generate])
@given(documents, documents)
def test_any_results_are_reported(first: dict[str, Any], second: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        runs = []
        for number, document in enumerate((first, second)):
            path = Path(name) / f"{number}.json"
            path.write_text(json.dumps(document))
            try:
                run = read_results(path)
            except DataError:
                continue
            runs.append(run)
            page = write_report(run, Path(name), NoFrames()).read_text("utf-8")
            assert page.rstrip().endswith("</html>")
            assert not re.search(r' (?:x|y|cx|cy|d|width|height)="[^"]*(?:nan|inf)', page)
            for text, length in (
                (metrics_csv(run.rows), len(run.rows)),
                (cases_csv(run.cases), len(run.cases)),
            ):
                lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
                assert len(lines) == length + 1
                assert len({len(line) for line in lines}) == 1
        for pair in ((runs[0], runs[0]), tuple(runs)) if len(runs) == 2 else ():
            try:
                comparison = compare(*pair)
            except DataError:
                continue
            json.dumps(comparison_json(comparison), allow_nan=False)
            comparison_html(comparison, *pair, ("a", "b"))
            try:
                gate(*pair, GateLimits())
            except DataError:
                continue
