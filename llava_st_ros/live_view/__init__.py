"""The page of ``llava-st view``: what a running node sees and publishes, live. No ROS."""
