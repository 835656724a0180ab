"""One file for each command, thin: it reads the options, makes one call of the library and shows what came of it.

`draw.py` is what sample and refine share.
"""
