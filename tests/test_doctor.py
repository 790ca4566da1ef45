"""`plam doctor` finds what is there and says what is off, whatever that is."""

from __future__ import annotations

import json

from test_harness_runs import config_file

from lmms_plam.cli import doctor, main


def test_all_is_well_here(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert "plam_probe_digits" in findings["tasks"]["detail"]
    assert "digits" in findings["model configs"]["detail"]
    assert all(finding["well"] for finding in findings.values())


def test_a_probe_that_can_not_use_the_engine_is_off(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(doctor, "NEEDED", frozenset())
    monkeypatch.setattr("lmms_plam.harness.engine.generate_family", lambda *_, **__: {}["past_key_values"])
    monkeypatch.setattr("lmms_plam.model.selfcheck.generate_family", lambda *_, **__: {}["past_key_values"])
    assert main(["doctor", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert [finding["detail"] for finding in findings if finding["subject"] == "engine"] == [
        f"plam_{kind}_digits runs plainly: it fails with KeyError: 'past_key_values'" for kind in ("probe", "compare")
    ]


def test_a_model_of_ones_own_is_tried(capsys, monkeypatch, pairs, tmp_path):
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(doctor, "NEEDED", frozenset())
    path = config_file(pairs["qwen2_5_vl"], tmp_path, merge="none")
    assert main(["doctor", "--json", "--model", str(path)]) == 0
    assert [finding["subject"] for finding in json.loads(capsys.readouterr().out)] == ["plam_probe_digits", "engine"]
    assert main(["doctor", "--json", "--model", "nothing"]) == 1
    assert "no model config 'nothing'" in capsys.readouterr().out


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
