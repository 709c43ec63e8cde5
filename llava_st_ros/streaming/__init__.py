"""From a camera's stream to windows of stamped features."""
