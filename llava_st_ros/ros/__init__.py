"""The ROS 2 package: a lifecycle node around the Grounder. The only package that uses rclpy."""
