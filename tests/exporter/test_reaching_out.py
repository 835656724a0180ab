"""Operations that do more than compute."""

from __future__ import annotations

import pytest

from ebm_export.exporter.reaching_out import reaches_out, script_reaches_out


@pytest.mark.parametrize(
    "name", ["aten::save", "aten.from_file.out", "c10d::send", "inductor._alloc_from_pool.default"]
)
def test_files_processes_and_memory(name: str) -> None:
    assert reaches_out(name)


@pytest.mark.parametrize("name", ["aten::add", "aten.saved.default", "prims.add.default", "torchvision::nms"])
def test_what_computes(name: str) -> None:
    assert not reaches_out(name)


def test_the_source_of_a_script() -> None:
    assert script_reaches_out("x = torch.add(x, y)\nz = self.save(x, torch.saved)") is None
    assert script_reaches_out("x = torch.add(x, y)\n_0 = torch.save(x, 'a')") == "torch.save"
    assert script_reaches_out("_1 = ops.aten.from_file('a')") == "ops.aten.from_file"
