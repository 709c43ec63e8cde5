"""Bounds of what the loaders accept; docs/architecture.md lists them.

They are far above every real file. They bound memory and time for a file that is damaged, hostile
or not what its name says.
"""

from __future__ import annotations

JSON_BYTES = 64 << 20  # config, index, manifest and tokenizer files
RESULTS_BYTES = 1 << 30  # results of an evaluation; an hour of boxes at 15 Hz for a query has 6 MB
RECORDS_BYTES = 8 << 30  # a file of training records
IMAGE_BYTES = 1 << 30  # an image file; 64 megapixels of 16-bit RGBA have half of it
YAML_BYTES = 4 << 20
YAML_NODES = 500_000  # scalars and collections, each alias counted as a copy of what it repeats
XML_BYTES = 128 << 20
XML_ELEMENTS = 2_000_000
DEPTH = 64  # nested lists, objects and XML elements
NUMBER_DIGITS = 300  # digits of an integer: every accepted integer fits into a float
ARCHIVE_BYTES = 4 << 30  # an .npz file when unpacked
FILE_NAME_BYTES = 255  # NAME_MAX of Linux's file systems
