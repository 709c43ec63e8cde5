"""Add a standing query to the grounding node, and print the id of its results.

    ros2 launch llava_st_ros grounding.launch.py image:=/camera/image_raw
    python examples/add_query.py "the red ball is lifted" [--task STVG] [--node grounding]

In a checkout, run it through ``scripts/with_ros``, where rclpy and the messages can be imported.
"""

from __future__ import annotations

import argparse
import sys

import rclpy

from llava_st_ros.msg import Query
from llava_st_ros.srv import AddQuery


def main() -> int:
    parser = argparse.ArgumentParser(description="Add a standing query to the grounding node.")
    parser.add_argument("text")
    parser.add_argument("--task", default="", help="default: chosen by the text")
    parser.add_argument("--period", type=float, default=0.0, help="s; 0: the node's default")
    parser.add_argument("--node", default="grounding")
    arguments = parser.parse_args()
    rclpy.init()
    node = rclpy.create_node("add_query")
    client = node.create_client(AddQuery, f"{arguments.node}/add_query")
    if not client.wait_for_service(timeout_sec=10.0):
        print(f"no node offers {client.srv_name}", file=sys.stderr)
        return 1
    query = Query(text=arguments.text, task=arguments.task, period=arguments.period)
    future = client.call_async(AddQuery.Request(query=query))
    rclpy.spin_until_future_complete(node, future)
    response = future.result()
    print(response.id if response.success else response.message)
    if response.success and response.message:
        print(response.message, file=sys.stderr)
    return 0 if response.success else 1


if __name__ == "__main__":
    sys.exit(main())
