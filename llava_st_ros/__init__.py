"""Language grounding for robots: LLaVA-ST as a streaming ROS 2 node."""

from pkgutil import extend_path

# The generated interfaces (llava_st_ros.msg, .srv, .action) have this package's name but, next to a
# checkout or a pip install, lie in another folder: every folder of that name on the path counts.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
