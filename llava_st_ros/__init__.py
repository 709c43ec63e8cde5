"""Language grounding for robots: LLaVA-ST as a streaming ROS 2 node."""

__version__ = "0.1.0"
