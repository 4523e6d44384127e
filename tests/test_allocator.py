"""Memory that steps free stays with the process, and goes back at the end."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from zoo.compute import allocator
from zoo.compute.allocator import pages_kept

GLIBC = allocator._glibc() is not None
needs_glibc = pytest.mark.skipif(not GLIBC, reason="another C library")

CHILD = """
import resource, torch
from zoo.compute.allocator import pages_kept

def faults(rounds=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(16 * 2**20).add_(1)  # 64 MiB, which malloc would map anew each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = faults()
with pages_kept():
    faults(2)
    kept, inside = faults(), resident()
print(usual, kept, inside - resident())
"""


@needs_glibc
def test_pages_stay_inside_and_go_back_afterwards():
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    usual, kept, returned = map(int, done.stdout.split())
    pages = 20 * 64 * 2**20 // resource.getpagesize()
    assert kept < pages / 4  # the heap may still grow once or twice
    assert kept < usual / 2
    assert returned > 32 * 2**20


@needs_glibc
def test_nested_the_outermost_alone_decides(monkeypatch):
    set_to: list[dict[int, int]] = []
    monkeypatch.setattr(allocator, "_set", lambda library, values: set_to.append(values))
    with pages_kept(), pages_kept():
        assert set_to == [allocator.KEEP]
    assert set_to == [allocator.KEEP, allocator.USUAL]
    with pytest.raises(ValueError, match="x"), pages_kept():
        raise ValueError("x")
    assert set_to[2:] == [allocator.KEEP, allocator.USUAL]


def test_without_glibc_nothing_happens(monkeypatch):
    def other(name):
        return ctypes.CDLL.__new__(ctypes.CDLL)

    monkeypatch.setattr(ctypes, "CDLL", other)
    with pages_kept() as kept:
        assert not kept


def test_numbers_do_not_change():
    torch.manual_seed(0)
    images, kernels = torch.randn(4, 3, 64, 64), torch.randn(8, 3, 3, 3)
    plain = torch.nn.functional.conv2d(images, kernels)
    with pages_kept():
        assert torch.equal(torch.nn.functional.conv2d(images, kernels), plain)
