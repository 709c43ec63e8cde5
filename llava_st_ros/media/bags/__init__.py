"""Reads image topics of rosbag2 recordings (sqlite3 or MCAP); ROS need not be installed.

A recording is read as far as it is readable, and never modified; ``Bag.notes`` names what is
missing, damaged or reinterpreted. ``storage`` is what the two storage formats have in common;
``mcap_file`` and ``sqlite_file`` read them.
"""

from llava_st_ros.media.bags.bag import Bag, ImageMessage, Topic
from llava_st_ros.media.bags.storage_files import is_storage_file

__all__ = ["Bag", "ImageMessage", "Topic", "is_storage_file"]
