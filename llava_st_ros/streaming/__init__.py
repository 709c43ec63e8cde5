"""From a camera's stream of frames to windows of encoded frames."""
