"""The ROS 2 node: the only part that imports rclpy."""
