"""``llava-st eval bag --node``: plays annotated bags to a running node and scores its answers."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_st_ros.cli.extras import requires_ros
from llava_st_ros.errors import BackendError, ConfigError, DataError, LlavaStError
from llava_st_ros.records import NANOSECONDS

if TYPE_CHECKING:
    from llava_st_ros.annotations.records import AnnotatedQuery, GroundTruth
    from llava_st_ros.evaluation.bag_evaluation import BagJob, BagOutcome
    from llava_st_ros.evaluation.node_run import NodeRun
    from llava_st_ros.ros.child_processes import ChildProcesses

START_TIMEOUT_S, LAST_ANSWER_TIMEOUT_S = 60.0, 15.0
LAST_STATUSES = 2  # diagnostics after the last frame that count every frame
# Settings of a model in this process. The node has its own.
MODEL_ARGUMENTS = (
    *("model", "backend", "device", "workers", "threads", "ray", "latency", "resume", "seed"),
    *("max_frame_rate", "track_rate", "window", "history", "no_match_threshold", "min_confidence"),
)


def reject_model_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise ConfigError if an argument is given that a running node does not use."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in MODEL_ARGUMENTS
        if getattr(args, name) != parser.get_default(name)
    ]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot be used with --node", "the node has its own model"
        )


def require_ros() -> None:
    """Raise BackendError if rclpy or this package's messages are missing."""
    with requires_ros("llava-st eval bag --node"):
        importlib.import_module("llava_st_ros.ros.query_holder")


class NodeEvaluation:
    """Evaluates a running node on bags.

    Args:
        node: The node's name; relative names are in the root namespace.
        node_topic: The topic to publish on; empty for the bag's, or the node's only one.

    Attributes:
        facts: What the node's diagnostics say about its model.
    """

    def __init__(self, node: str, node_topic: str = "") -> None:
        self.node, self._node_topic = "/" + node.strip("/"), node_topic
        self.facts: Mapping[str, str] = {}

    def evaluate(self, job: BagJob) -> BagOutcome:
        """Evaluate every annotated camera of a bag, one after the other. Raises LlavaStError."""
        from llava_st_ros.evaluation.bag_evaluation import (
            BagOutcome,
            annotated_topics,
            merge_latency,
            read_truth,
            standing_queries,
        )

        truth = read_truth(job)
        dropped = [f"{job.annotations.name}: {note}" for note in truth.notes]
        outcomes = []
        for topic in annotated_topics(job, truth):
            standing, left_out = standing_queries(truth, topic)
            dropped += left_out
            if standing:
                outcomes.append(self._camera(job, truth, topic, standing))
        return BagOutcome(
            tuple(case for outcome in outcomes for case in outcome.cases),
            tuple(f"{job.name}: {line}" for line in dropped)
            + tuple(f"{job.name}: {line}" for outcome in outcomes for line in outcome.dropped),
            frames=sum(outcome.frames for outcome in outcomes),
            seconds=sum(outcome.seconds for outcome in outcomes),
            latency=merge_latency(outcome.latency for outcome in outcomes),
        )

    def _camera(
        self, job: BagJob, truth: GroundTruth, topic: str, queries: Sequence[AnnotatedQuery]
    ) -> BagOutcome:
        from llava_st_ros.annotations.annotation_file import check_footage, check_image_size
        from llava_st_ros.evaluation.bag_evaluation import BagOutcome
        from llava_st_ros.evaluation.node_run import NodeRun
        from llava_st_ros.media.sources import BagSource
        from llava_st_ros.ros.child_processes import ChildProcesses

        source = BagSource(job.bag, topic or None)
        first = next(iter(source))
        check_image_size(truth, topic, (first.width, first.height))
        token = uuid.uuid4().hex[:8]  # no id of the node's own queries
        ids = {f"eval-{token}-{n}": query.id for n, query in enumerate(queries)}
        run = NodeRun(ids)
        name = source.topic.name
        with tempfile.TemporaryDirectory(prefix="llava-st-") as folder:
            environment = {"PYTHONUNBUFFERED": "1"}
            with ChildProcesses(Path(folder), environment) as children:
                before = self._play(children, run, Path(folder), job, name, queries)
                code = children.interrupt("queries")
        stamps = list(run.sent)
        if stamps != sorted(stamps):
            raise DataError(f"{name}: the stamps jump back; --node plays one stream only")
        dropped = self._losses(run, before, source.topic.messages)
        dropped += check_footage(truth, topic, stamps)
        if code:
            dropped.append(f"the queries eval-{token}-* may still be in the node")
        return BagOutcome(
            tuple(run.cases(job.name, job.bag, queries, truth)),
            tuple(f"{name}: {line}" for line in dropped),
            frames=len(stamps),
            seconds=(stamps[-1] - stamps[0]) / NANOSECONDS,
            latency={"stamp_to_answer": tuple(run.latencies)},
        )

    def _play(
        self,
        children: ChildProcesses,
        run: NodeRun,
        folder: Path,
        job: BagJob,
        bag_topic: str,
        queries: Sequence[AnnotatedQuery],
    ) -> dict[str, int]:
        """Play one camera; return the node's losses before."""
        commands = folder / "queries.json"
        children.start("queries", "llava_st_ros.ros.query_holder", self.node, str(commands))
        _wait(lambda: "found" in run.kinds, children, run, "the node is not found")
        self.facts = run.status.get("model", {})
        topic = self._select_camera(run, bag_topic)
        children.start("collector", "llava_st_ros.ros.result_collector", self.node)
        _wait(lambda: "ready" in run.kinds, children, run, f"{self.node} has no result topics")
        entries = [
            {
                "id": id,
                "text": query.text,
                "task": query.task.value,
                "cameras": [run.camera],
                "period": float(job.period),
            }
            for id, query in zip(run.ids, queries)
        ]
        part = commands.with_suffix(".part")
        part.write_text(json.dumps({"queries": entries}), encoding="utf-8")
        os.replace(part, commands)
        _wait(lambda: "added" in run.kinds, children, run, "the queries are not added")
        before = {**run.losses(), "received": run.count("received")}
        arguments = (str(job.bag), topic, "--bag-topic", bag_topic)
        children.start("player", "llava_st_ros.ros.bag_player", *arguments)
        _wait(lambda: "matched" in run.kinds, children, run, f"{topic} is not subscribed to")
        _wait(lambda: "done" in run.kinds, children, run, "the player does not finish", None)
        if not run.sent:
            raise DataError(f"{job.bag} has no readable image on {bag_topic}")
        # A query last evaluated a period or more before the bag's end is due again by then.
        last_due = max(run.sent) - round(job.period * NANOSECONDS)
        last_status = run.status_count + LAST_STATUSES

        def is_complete() -> bool:
            stamps = [run.answered.get(query.id, 0) for query in queries]
            return min(stamps) > last_due and run.status_count >= last_status

        _handle(is_complete, children, run, LAST_ANSWER_TIMEOUT_S)
        return before

    def _select_camera(self, run: NodeRun, bag_topic: str) -> str:
        """Choose the node's camera; return its topic. Raises DataError."""
        topics = {values.get("topic", ""): name for name, values in run.cameras.items()}
        if not topics:
            raise DataError(f"{self.node} is not active, or has no cameras")
        topic = "/" + (self._node_topic or bag_topic).strip("/")
        if topic not in topics and not self._node_topic and len(topics) == 1:
            topic = next(iter(topics))
        if topic not in topics:
            raise DataError(
                f"{self.node} does not subscribe to {topic}",
                f"name one of its image topics with --node-topic: {', '.join(topics)}",
            )
        run.camera = topics[topic]
        publishers = run.cameras[run.camera].get("publishers", "0")
        if publishers != "0":
            raise DataError(
                f"{topic} already has {publishers} publishers", "stop them: images would be mixed"
            )
        return topic

    def _losses(self, run: NodeRun, before: Mapping[str, int], recorded: int) -> list[str]:
        """Compare the frames that were sent with those that the node received and used."""
        sent, lines = len(run.sent), []
        if recorded > sent:
            lines.append(f"{recorded - sent} of {recorded} messages are not readable or repeated")
        received = run.count("received") - before["received"]
        if received < sent:
            lines.append(f"{sent - received} of {sent} frames did not reach the node")
        for reason, count in run.losses().items():
            if lost := count - before.get(reason, 0):
                lines.append(f"{lost} of {sent} frames were not used by the node: {reason}")
        unanswered = [id for id in run.ids.values() if id not in run.answered]
        if unanswered:
            lines.append(f"the node never answered {', '.join(unanswered)}")
        return lines


def _wait(
    condition: Callable[[], bool],
    children: ChildProcesses,
    run: NodeRun,
    problem: str,
    timeout: float | None = START_TIMEOUT_S,
) -> None:
    """Handle messages until a condition holds. Raises BackendError after the timeout."""
    if not _handle(condition, children, run, timeout):
        raise BackendError(f"{problem} after {timeout:.0f} s")


def _handle(
    condition: Callable[[], bool],
    children: ChildProcesses,
    run: NodeRun,
    timeout: float | None,
) -> bool:
    from llava_st_ros.ros.child_processes import ProcessError

    deadline = None if timeout is None else time.monotonic() + timeout
    while not condition():
        message: dict[str, Any] | None = children.next_message(timeout=0.1)
        if message is None:
            try:
                children.check()
            except ProcessError as error:  # the log that it names is temporary
                raise BackendError(error.problem) from error
        elif message.get("kind") == "error":
            raise BackendError(message["problem"], message["remedy"])
        else:
            run.add(message)
        if deadline is not None and time.monotonic() > deadline:
            return False
    return True


def run_on_node(args: argparse.Namespace) -> tuple[NodeEvaluation, list[BagOutcome], list[str]]:
    """Evaluate the bags of the command line, one after the other, on a running node.

    Returns:
        The node, the outcomes, and which bags were not evaluated and why.
    """
    from llava_st_ros.evaluation.bag_evaluation import BagJob
    from llava_st_ros.evaluation.bag_run import bag_jobs

    require_ros()
    settings = BagJob("", Path(), Path(), args.topic, period=args.period)
    node = NodeEvaluation(args.node, args.node_topic)
    outcomes, failures = [], []
    for job in bag_jobs(args.bags, args.annotations, settings):
        print(f"playing {job.name} to {node.node}", file=sys.stderr)
        try:
            outcomes.append(node.evaluate(job))
        except LlavaStError as error:
            failures.append(f"{job.name}: not evaluated: {error}")
    if not outcomes:
        raise DataError("; ".join(failures))
    return node, outcomes, failures
