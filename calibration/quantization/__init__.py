"""Writes score graphs with layers in INT8."""
