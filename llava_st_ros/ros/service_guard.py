"""Every service request gets a response, whatever its handler does.

rclpy sends no response when a handler raises (the client waits forever), and passes the exception
on to the executor. An invalid lifecycle transition, requested by id, is one such case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rclpy.node import Node

from llava_st_ros.errors import one_line

Report = Callable[[str, Exception], None]  # the service's name and the exception


def guard_services(node: Node, report: Report) -> None:
    """Make all services of a node respond even if their handlers raise.

    The response is then an empty one (``success`` is false); its ``message``, if it has one, names
    the exception.

    Args:
        node: The node; call this after its services were created.
        report: Called with the name of the service and the exception.
    """
    for service in node.services:
        service.callback = _guarded(service.callback, service.srv_name, report)


def _guarded(handle: Callable[[Any, Any], Any], name: str, report: Report) -> Callable[..., Any]:
    def guarded(request: Any, response: Any) -> Any:
        try:
            return handle(request, response)
        except Exception as error:
            report(name, error)
            failed = type(response)()
            if hasattr(failed, "message"):
                failed.message = one_line(error)
            return failed

    return guarded


def reject_invalid_transitions(node: Node) -> None:
    """Make a lifecycle node reject transitions that its state does not have.

    rclpy raises RCLError for a transition that is requested by id (``ros2 lifecycle`` and nav2's
    lifecycle manager do this). Here the response is ``success=False`` and the state is unchanged.

    Args:
        node: A LifecycleNode.
    """
    services: dict[str, Any] = {s.srv_name.rpartition("/")[2]: s for s in node.services}
    change = services["change_state"]
    change_state = change.callback
    get_transitions = services["get_available_transitions"].callback
    get_state = services["get_state"].callback

    def change_if_possible(
        request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        state = get_state(GetState.Request(), GetState.Response()).current_state
        transitions = get_transitions(
            GetAvailableTransitions.Request(), GetAvailableTransitions.Response()
        ).available_transitions
        possible = {item.transition.id: item.transition.label for item in transitions}
        wanted = request.transition
        # As in rclpy, a label takes precedence over the id.
        if wanted.label not in possible.values() if wanted.label else wanted.id not in possible:
            choices = ", ".join(f"{label} ({number})" for number, label in possible.items())
            node.get_logger().warning(
                f"rejected transition {wanted.label or wanted.id!r}: the node is {state.label}; "
                f"possible: {choices or 'none'}"
            )
            response.success = False
            return response
        return change_state(request, response)

    change.callback = change_if_possible
