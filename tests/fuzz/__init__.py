"""Fuzzing: properties of every parser of foreign bytes, and the drivers that try to break them."""
