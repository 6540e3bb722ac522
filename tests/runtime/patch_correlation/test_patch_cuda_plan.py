"""What the CUDA searches are compiled from, and in which order their kernels run."""

import re
from dataclasses import replace

import pytest

from dsin.runtime.patch_correlation import block_cuda, patch_cuda_plan
from dsin.runtime.patch_correlation.definition import NO_VARIANCE, Measure, tie_of
from dsin.runtime.patch_correlation.patch_cuda_plan import KERNELS, Launch, Plan, plan

PATCH = (20, 24)


def planned(measure: Measure, *, bands: int) -> Plan:
    """13 patches in each of 4 rows, and 51 rows of 277 windows."""
    made = plan(70, 300, PATCH, measure)
    assert (made.down, made.across, made.columns, made.pitch) == (4, 13, 277, 278)
    assert replace(made, width=301).pitch == 278, "an even number already"
    return replace(made, band_rows=51 if bands == 1 else 30)


def test_in_one_band_windows_are_described_once() -> None:
    band, patches = range(51), (13, 4)
    assert list(planned("pearson", bands=1).launches()) == [
        Launch("describe", (3, 51), band, False),
        Launch("guess", patches, band, False),
        Launch("scan", (16, 8), band, False),  # four patches side by side share a block
        Launch("resolve", patches, band, False),
        Launch("exhaust_best", patches, band, True),
        Launch("exhaust_first", patches, band, True),
        Launch("gather", (3, 70), band, False),
    ]
    assert list(planned("l2", bands=1).launches()) == [
        Launch("guess", patches, band, False),
        Launch("describe", (3, 70), band, False),  # pixels, not windows
        Launch("exhaust_best", patches, band, False),
        Launch("exhaust_first", patches, band, True),
        Launch("gather", (3, 70), band, False),
    ]


@pytest.mark.parametrize(("measure", "below"), [("pearson", 0), ("l2", 19)])
def test_of_several_bands_each_is_described_before_each_kernel(
    measure: Measure, below: int
) -> None:
    made = planned(measure, bands=2)
    first, second = made.bands()
    assert (first, second) == (range(30), range(30, 51))

    def over(kernel: str, blocks: tuple[int, int], *, again: bool = False) -> list[Launch]:
        return [
            launch
            for band in (first, second)
            for launch in (
                Launch("describe", (3, len(band) + below), band, again),
                Launch(kernel, blocks, band, again),
            )
        ]

    patches = (13, 4)
    if measure == "pearson":
        expected = [
            *over("guess", patches), *over("scan", (16, 8)),
            Launch("resolve", patches, first, False), *over("exhaust_best", patches, again=True),
        ]  # fmt: skip
    else:
        expected = [Launch("guess", patches, range(51), False), *over("exhaust_best", patches)]
    expected += over("exhaust_first", patches, again=True)
    assert list(made.launches()) == [*expected, Launch("gather", (3, 70), first, False)]


def defined(source: str) -> dict[str, str]:
    return dict(re.findall(r"^#define (\w+) (\S+)$", source, re.MULTILINE))


def tables(source: str) -> dict[str, str]:
    """Type and sizes of each table."""
    found = re.findall(r"^__constant__ (\w+) (\w+)((?:\[\w+\])+) = \{.*\};$", source, re.MULTILINE)
    return {name: kind + sizes for kind, name, sizes in found}


@pytest.mark.parametrize("measure", ["pearson", "l2"])
def test_the_source_of_the_search_begins_with_its_numbers(measure: Measure) -> None:
    source = patch_cuda_plan.source(PATCH, measure, half=True)
    numbers = defined(source)
    assert float(numbers["TIE"]) == tie_of(measure, PATCH)
    assert float(numbers["NO_VARIANCE"]) == NO_VARIANCE
    assert numbers.items() >= {
        "PH": "20", "PW": "24", "K": "16", "HALF": "1", "THREADS": "128", "GROUP": "4",
        "NEAR": "32", "TOP_GREY": "3", "TOP_COLOUR": "1", "LOG_2": "0.6931471805599453",
    }.items()  # fmt: skip
    assert tables(source) == {
        "MEAN": "double[3]", "STD": "double[3]", "XYZ": "double[3][3]", "ROTATION": "double[3][3]",
        "AXIS": "double[3]", "ROTATED": "float[3][3]", "DOWN": "float[4][20]",
        "ACROSS": "float[4][24]",
    }  # fmt: skip
    for kernel in KERNELS[measure]:
        assert re.search(rf"\b{kernel}\(", source), kernel


def test_the_source_of_the_refinement_begins_with_its_numbers() -> None:
    source = block_cuda.source(PATCH)
    numbers = defined(source)
    assert {"PH", "PW", "BLOCK", "MARGIN", "REACH", "THREADS", "FORGIVEN", "MOVED", "FOREIGN",
            "NEIGHBOURS"} <= set(numbers)  # fmt: skip
    assert (numbers["PH"], numbers["PW"], numbers["BLOCK"]) == ("20", "24", "8")
    listed = re.findall(r"^__constant__ int (\w+)\[NEIGHBOURS\] = \{(.*)\};$", source, re.MULTILINE)
    assert [name for name, _ in listed] == ["ABOVE_OR_BELOW", "BESIDE"]
    assert {len(values.split(", ")) for _, values in listed} == {int(numbers["NEIGHBOURS"])}
