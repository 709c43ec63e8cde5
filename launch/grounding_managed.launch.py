"""Start the node with its lifecycle in the hands of launch: configured, then activated.

``ros2 launch llava_st_ros grounding_managed.launch.py`` has the arguments of grounding.launch.py.
A robot's own launch file can include grounding.launch.py with ``autostart:=false`` in the same way
and emit the events when other nodes are ready. docs/node.md shows it with nav2's manager.
"""

from __future__ import annotations

from pathlib import Path

from launch import Action, LaunchDescription
from launch.actions import EmitEvent, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    node = IncludeLaunchDescription(
        # As text, not as a substitution, so that --show-args can list the arguments.
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("grounding.launch.py"))),
        launch_arguments={"autostart": "false"}.items(),
    )
    activate_when_configured = RegisterEventHandler(
        OnStateTransition(
            matcher=lambda event: (
                event.name == "launch_ros.events.lifecycle.StateTransition"
                and _is_grounding(event.action)
                and (event.start_state, event.goal_state) == ("configuring", "inactive")
            ),
            entities=[_emit(Transition.TRANSITION_ACTIVATE)],
        )
    )
    # Launch would wait for the services of a node that could not start.
    end_with_node = RegisterEventHandler(
        OnProcessExit(
            target_action=_is_grounding,
            on_exit=lambda _, context: (
                None
                if context.is_shutdown  # launch_ros cannot shut down twice
                else EmitEvent(event=Shutdown(reason="the node has exited"))
            ),
        )
    )
    return LaunchDescription(
        [activate_when_configured, end_with_node, node, _emit(Transition.TRANSITION_CONFIGURE)]
    )


def _emit(transition: int) -> EmitEvent:
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=_is_grounding, transition_id=transition)
    )


def _is_grounding(action: Action) -> bool:
    """Whether an action is the node of grounding.launch.py, in any namespace."""
    return isinstance(action, LifecycleNode) and action.node_name.endswith("/grounding")
