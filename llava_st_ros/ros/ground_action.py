"""The action ``~/ground``: a one-shot query with token-by-token feedback and cancellation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode

from llava_st_ros import action
from llava_st_ros.errors import BackendError, LlavaStError, one_line
from llava_st_ros.ros import conversions, qos
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.queries import check_camera, make_query
from llava_st_ros.ros.services import GetWorker
from llava_st_ros.ros.worker import MAX_PENDING

# Each pending goal blocks a thread. The rest is for images, services, timers and cancellation.
EXECUTOR_THREADS = 2 * MAX_PENDING + 4
RESULT_SECONDS = 60  # how long a result can be requested; rclpy keeps it in memory for so long


class GroundAction:
    """The action server. Each goal waits in an executor thread while the worker answers it."""

    def __init__(
        self,
        node: LifecycleNode,
        get_worker: GetWorker,
        get_parameters: Callable[[], NodeParameters],
        throttle: LogThrottle,
    ) -> None:
        self._node = node
        self._get_worker, self._get_parameters = get_worker, get_parameters
        self._throttle = throttle
        # rclpy marks a goal as canceling after the cancel callback has returned. The guard
        # condition shares the server's group, so that its callback runs after that. (Goals are
        # executed as tasks, outside the group.)
        group = MutuallyExclusiveCallbackGroup()
        self._cancel_requested = node.create_guard_condition(self._check_cancelled, group)
        self._server = ActionServer(
            node,
            action.Ground,
            "~/ground",
            self._execute,
            callback_group=group,
            cancel_callback=self._on_cancel,
            goal_service_qos_profile=qos.REQUESTS,
            result_service_qos_profile=qos.REQUESTS,
            cancel_service_qos_profile=qos.REQUESTS,
            result_timeout=RESULT_SECONDS,
        )

    def destroy(self) -> None:
        self._server.destroy()
        self._node.destroy_guard_condition(self._cancel_requested)

    def _on_cancel(self, _: ServerGoalHandle) -> CancelResponse:
        self._cancel_requested.trigger()
        return CancelResponse.ACCEPT

    def _check_cancelled(self) -> None:
        with suppress(BackendError):  # no worker, so no goal waits for one
            self._get_worker().check_cancelled()

    def _execute(self, goal: ServerGoalHandle) -> action.Ground.Result:
        result = action.Ground.Result()
        try:
            self._ask(goal, result)
        except LlavaStError as error:
            result.message = str(error)
        except Exception as error:
            result.message = one_line(error)
            self._throttle.error("goal", f"a goal failed: {result.message}")
        if goal.is_cancel_requested:
            goal.canceled()
            return action.Ground.Result(message="cancelled")
        if result.success:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _ask(self, goal: ServerGoalHandle, result: action.Ground.Result) -> None:
        parameters, worker = self._get_parameters(), self._get_worker()
        query = make_query(goal.request.query, parameters)
        camera = goal.request.camera or None
        if camera is not None:
            check_camera(camera, parameters.camera_names)
        tokens: list[int] = []

        def on_token(token: int) -> None:
            tokens.append(token)
            text = worker.tokenizer.decode(tokens)
            goal.publish_feedback(action.Ground.Feedback(text=text, tokens=len(tokens)))

        grounding = worker.ask(
            query, camera=camera, on_token=on_token, cancelled=lambda: goal.is_cancel_requested
        )
        result.answer = conversions.answer_to_msg(grounding)
        result.success, result.message = True, query.note
