"""`plam doctor` finds what is there and says what is off, whatever that is."""

from __future__ import annotations

import json

from lmms_plam.cli import doctor, main


def test_all_is_well_here(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert "plam_probe_digits" in findings["tasks"]["detail"]
    assert "digits" in findings["model configs"]["detail"]
    assert all(finding["well"] for finding in findings.values())


def test_what_a_check_stumbles_over_is_printed_as_it_is(capsys, monkeypatch):
    def _backends():
        yield doctor.Finding("backend", False, "pip install lmms-eval[qwen]")
        raise ValueError("no [/such/folder]")

    monkeypatch.setattr(doctor, "CHECKS", (_backends,))
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "pip install lmms-eval[qwen]" in printed
    assert "ValueError: no [/such/folder]" in printed
    assert "2 of 2 need attention" in printed
