"""The ROS 2 side: a thin lifecycle node around the Grounder; rclpy is known here only."""
