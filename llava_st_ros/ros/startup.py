"""What rclpy raises for a wrong command line, as the package's one-line errors.

``rclpy.init`` and the constructor of a node raise the same in Humble and Jazzy (exceptions.py of
rclpy; context.cpp, node.cpp and utils.cpp of its extension): RCLError, with rcl's messages, for a
file, rule or remapping that rcl cannot read; UnknownROSArgsError with a list of arguments, both
RuntimeErrors; ParameterException for a parameter that rclpy itself declares;
NameValidationException for a name or namespace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy.logging
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.utilities import remove_ros_args

from llava_st_ros.errors import ConfigError
from llava_st_ros.ros.parameter_sources import ParameterSources
from llava_st_ros.ros.rcl_messages import clean_message

MAX_DOMAIN = 232  # the highest for which DDS's rule gives a valid port


@contextmanager
def startup_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Raise ConfigError for what rclpy raises if the command line is wrong.

    Args:
        arguments: The command line, which starts with the program.
    """
    try:
        yield
    except UnicodeError as error:
        raise ConfigError(f"the command line is not valid UTF-8: {error}") from error
    except NameValidationException as error:
        raise ConfigError(clean_message(error)) from error
    except ParameterException as error:
        raise ConfigError(_parameter_problem(str(error))) from error
    except RuntimeError as error:
        # These explain most files and rules that rcl cannot read.
        ParameterSources.from_arguments(arguments).check_values()
        problem = clean_message(error)
        if problem.startswith("["):
            problem = f"unknown ROS arguments: {problem.strip('[]')}"
        raise ConfigError(problem) from error


def check_domain() -> None:
    """Raise ConfigError if ROS_DOMAIN_ID is too high: Fast DDS would end the process."""
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain.isdecimal() and int(domain[:9]) > MAX_DOMAIN:
        raise ConfigError(f"ROS_DOMAIN_ID is {domain}; expected a number from 0 to {MAX_DOMAIN}")


def check_arguments(arguments: Sequence[str]) -> None:
    """Check the command line before ``rclpy.init``, which logs in its own words what is wrong.

    rclpy ignores arguments that are not for ROS, so that ``-p model:=x`` without ``--ros-args`` has
    no effect.

    Raises:
        ConfigError: There are arguments that are not for ROS, or ROS_DOMAIN_ID is too high.
        RuntimeError: rcl cannot read the arguments.
    """
    check_domain()
    severities = rclpy.logging.LoggingSeverity
    rclpy.logging.set_logger_level("rcl", severities.FATAL)
    try:
        others = remove_ros_args(args=list(arguments))[1:]
    finally:
        rclpy.logging.set_logger_level("rcl", severities.UNSET)
    if others:
        raise ConfigError(
            f"unexpected arguments: {' '.join(others)}", "arguments for ROS follow --ros-args"
        )


def _parameter_problem(message: str) -> str:
    found = re.match(
        r"Trying to set parameter '(.+?)' to '(.*)' of type '.*', expecting type '(.+?)'",
        message,
        re.DOTALL,
    )
    if found is None:
        return message
    name, value, kind = found.groups()
    return f"{name} is {value}; expected a value of type {kind.rpartition('.')[2].lower()}"
