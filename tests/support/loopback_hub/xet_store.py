"""What hf_xet leaves in a ``local://`` store, read back without a server: shards, xorbs, LZ4 and byte-grouped LZ4."""

from __future__ import annotations

import struct
from pathlib import Path


def _swap8(b: bytes) -> str:
    """A xet hash as text: four little-endian u64, each printed big-endian."""
    return b"".join(b[i : i + 8][::-1] for i in range(0, 32, 8)).hex()


def lz4_frame(data: bytes) -> bytes:
    if data[:4] != b"\x04\x22\x4d\x18":
        raise ValueError("not an LZ4 frame")
    flg, pos = data[4], 6
    pos += 8 * bool(flg & 8) + 4 * bool(flg & 1) + 1
    out = bytearray()
    while True:
        (n,) = struct.unpack_from("<I", data, pos)
        pos += 4
        if n == 0:
            return bytes(out)
        raw, n = n & 0x80000000, n & 0x7FFFFFFF
        if raw:
            out += data[pos : pos + n]
        else:
            _lz4_block(data, pos, pos + n, out)
        pos += n + 4 * bool(flg & 16)


def _lz4_block(src: bytes, i: int, end: int, out: bytearray) -> None:
    while i < end:
        token = src[i]
        i += 1
        n = token >> 4
        if n == 15:
            while True:
                n += src[i]
                i += 1
                if src[i - 1] != 255:
                    break
        out += src[i : i + n]
        i += n
        if i >= end:
            return
        off = src[i] | src[i + 1] << 8
        i += 2
        n = (token & 15) + 4
        if n == 19:
            while True:
                n += src[i]
                i += 1
                if src[i - 1] != 255:
                    break
        at = len(out) - off
        if off >= n:
            out += out[at : at + n]
        else:
            piece = bytes(out[at:])
            out += (piece * (n // off + 1))[:n]


def ungroup4(data: bytes) -> bytes:
    out, n, pos = bytearray(len(data)), len(data), 0
    for g in range(4):
        k = n // 4 + (g < n % 4)
        out[g::4] = data[pos : pos + k]
        pos += k
    return bytes(out)


class LocalCas:
    """Reads what hf_xet leaves in its local:// store: shards (file -> xorb chunk ranges) and xorbs."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def find(self, sha256: str):
        """(xet hash, [(xorb, first chunk, end chunk)]) of the file with this sha256, or None."""
        for p in sorted(self.root.glob("**/shards/*.mdb"), key=lambda p: p.stat().st_mtime, reverse=True):
            b, pos = p.read_bytes(), 48
            while pos + 48 <= len(b) and b[pos : pos + 32] != b"\xff" * 32:
                flags, count = struct.unpack_from("<II", b, pos + 32)
                file_hash, pos, parts = _swap8(b[pos : pos + 32]), pos + 48, []
                for _ in range(count):
                    start, stop = struct.unpack_from("<II", b, pos + 40)
                    parts.append((_swap8(b[pos : pos + 32]), start, stop))
                    pos += 48
                if flags & 0x80000000:
                    pos += 48 * count
                if flags & 0x40000000:
                    if _swap8(b[pos : pos + 32]) == sha256:
                        return file_hash, parts
                    pos += 48
        return None

    def read(self, parts) -> bytes:
        out = []
        for xorb, start, stop in parts:
            path = next(self.root.glob(f"**/xorbs/default.{xorb}"))
            b, pos = path.read_bytes(), 0
            for i in range(stop):
                n, scheme = int.from_bytes(b[pos + 1 : pos + 4], "little"), b[pos + 4]
                if i >= start:
                    data = b[pos + 8 : pos + 8 + n]
                    out.append(data if scheme == 0 else lz4_frame(data) if scheme == 1 else ungroup4(lz4_frame(data)))
                pos += 8 + n
        return b"".join(out)
