"""The action ``~/ground``: one question now, the answer token by token, cancellable."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode

from llava_st_ros import action
from llava_st_ros.errors import LlavaStError, QueryError
from llava_st_ros.ros import conversions
from llava_st_ros.ros.control import GetWorker, query_of
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.worker import MAX_PENDING

# Threads an executor needs so that a goal waiting for its answer blocks nothing else: the goals,
# and some for images, services and timers.
EXECUTOR_THREADS = 2 * MAX_PENDING + 4


class GroundAction:
    """The action server. Each goal waits in an executor's thread while the worker answers it."""

    def __init__(
        self, node: LifecycleNode, worker: GetWorker, parameters: Callable[[], NodeParameters]
    ) -> None:
        self._worker, self._parameters = worker, parameters
        self._logger = node.get_logger()
        self._server = ActionServer(
            node,
            action.Ground,
            "~/ground",
            self._execute,
            # Cancelling must get through while a goal is being executed.
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def destroy(self) -> None:
        self._server.destroy()

    def _execute(self, goal: ServerGoalHandle) -> action.Ground.Result:
        result = action.Ground.Result()
        try:
            self._ask(goal, result)
        except LlavaStError as error:
            result.message = str(error)
        except Exception as error:
            self._logger.error(f"{goal.request.query.text!r} failed: {error!r}")
            result.message = f"{type(error).__name__}: {error}"
        if goal.is_cancel_requested:
            goal.canceled()
            return action.Ground.Result(message="cancelled")
        if result.success:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _ask(self, goal: ServerGoalHandle, result: action.Ground.Result) -> None:
        parameters, worker = self._parameters(), self._worker()
        query = query_of(goal.request.query, parameters)
        camera = goal.request.camera or None
        cameras = [source.name for source in parameters.camera_sources]
        if camera is not None and camera not in cameras:
            raise QueryError(f"camera {camera!r}; expected one of {', '.join(cameras)}")
        written: list[int] = []

        def on_token(token: int) -> None:
            written.append(token)
            text = worker.tokenizer.decode(written)
            goal.publish_feedback(action.Ground.Feedback(text=text, tokens=len(written)))

        grounding = worker.ask(
            query, camera=camera, on_token=on_token, cancelled=lambda: goal.is_cancel_requested
        )
        result.answer = conversions.answer_to_msg(grounding)
        result.success = True
