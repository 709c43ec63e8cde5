"""A second, independent renderer with its own motions, to measure generalization.

It shares the names of objects and events with ``llava_st_ros.simulation``, but neither its physics
nor its OpenGL renderer: a NumPy ray caster and kinematic motions. Nothing is trained on it.
"""
