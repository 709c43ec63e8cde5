"""The field's public benchmarks: readers of their published files, and their evaluation."""
