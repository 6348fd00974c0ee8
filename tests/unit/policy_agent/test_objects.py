from __future__ import annotations

from pathlib import Path

import pytest

from vpccni.components.policy_agent.objectfile import ObjectRefused
from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs


def test_a_prebuilt_file_that_is_missing_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ObjectRefused, match="VPCCNI_BPF_OBJECT"):
        compiled_programs(ObjectSource(tmp_path, tmp_path / "none.json"))
