from torch._decomp import core_aten_decompositions
def decompositions():
    return dict(core_aten_decompositions())
