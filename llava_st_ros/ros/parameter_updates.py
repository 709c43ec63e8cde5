"""Changes of parameters while the node runs."""

from __future__ import annotations

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from llava_st_ros.errors import ConfigError
from llava_st_ros.ros.parameter_values import nearest
from llava_st_ros.ros.parameters import NodeParameters, to_declared_types


class TypedParameters(Node):
    """Converts changes to the declared types, and rejects others in the package's words.

    rclpy rejects an integer for a number. It offers a callback that could convert
    (``add_pre_set_parameters_callback``) in Jazzy, but not in Humble.
    """

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        try:
            for parameter in parameter_list:
                if not self.has_parameter(parameter.name):
                    similar = nearest(parameter.name, NodeParameters.names())
                    raise ConfigError(
                        f"{parameter.name} is unknown",
                        f"the nearest parameter is {similar}" if similar else "",
                    )
            changes = to_declared_types(parameter_list)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return super().set_parameters_atomically(changes)
