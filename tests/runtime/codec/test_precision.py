"""Which networks of a bundle with both precisions are opened on which machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec import int8_support
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.precision import at_precision, exact_name, precision_of
from dsin.runtime.errors import BackendError, BundleError


@pytest.mark.parametrize(
    ("machine", "facts", "backend", "expected"),
    [
        ("x86_64", "flags : fpu avx2 avx512_vnni", "cpu", "8 bits"),
        ("AMD64", "flags : avx_vnni", "cpu", "8 bits"),
        ("x86_64", "flags : fpu avx2 avx512f", "cpu", "float"),
        ("x86_64", "flags : avx_vnni", "cuda", "float"),
        ("x86_64", "", "cpu", "float"),  # unknown is not fast
        ("aarch64", "Features : fp asimd asimddp", "cpu", "8 bits"),
        ("arm64", "Features : fp asimd asimddp", "cpu", "8 bits"),
        ("aarch64", "Features : fp asimd", "cpu", "float"),
        ("riscv64", "flags : avx_vnni asimddp", "cpu", "float"),
    ],
)
def test_8_bits_are_taken_where_they_are_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, facts: str, backend: Backend,
    expected: str,
) -> None:  # fmt: skip
    (tmp_path / "cpuinfo").write_text(facts + "\n")
    monkeypatch.setattr(int8_support, "CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    bundle = open_bundle("edge")
    assert precision_of(bundle) == "float and 8 bits"
    assert precision_of(at_precision(bundle, backend)) == expected


def test_another_process_opens_the_same_networks() -> None:
    auto, chosen = open_bundle("edge"), open_bundle("edge@float")
    assert exact_name(auto) == str(auto.path.resolve())
    assert exact_name(chosen) == f"{auto.path.resolve()}@float"
    assert precision_of(at_precision(open_bundle(exact_name(chosen)), "cpu")) == "float"


def test_networks_that_a_bundle_lacks_are_refused_in_words() -> None:
    """What stands in its place: one with float networks alone, and one with 8-bit ones alone."""
    plain = replace(open_bundle("paper"), precision="int8")
    with pytest.raises(BundleError) as refused:
        at_precision(plain, "cpu")
    assert str(refused.value) == (
        "bundle paper has no 8-bit networks: make them with dsin calibrate, or ask for float"
    )
    calibrated = replace(plain, training={"calibration": {}})
    assert at_precision(calibrated, "cpu") is calibrated
    with pytest.raises(BundleError) as refused:
        at_precision(replace(calibrated, precision="float"), "cpu")
    assert str(refused.value) == "bundle paper has 8-bit networks only: ask for int8"
    for fitting in ("auto", "float"):
        bundle = replace(plain, precision=fitting)
        assert at_precision(bundle, "cuda") is bundle


def test_8_bits_are_for_the_cpu() -> None:
    with pytest.raises(BackendError) as refused:
        at_precision(open_bundle("edge@int8"), "cuda")
    assert str(refused.value) == (
        "the 8-bit networks of bundle edge are for the CPU, not for cuda: ask for float there "
        "(TensorRT has 8 bits of its own: dsin-export trt --precision int8)"
    )
    assert precision_of(at_precision(open_bundle("edge@float"), "cuda")) == "float"
