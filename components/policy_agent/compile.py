"""Compile the programs with BCC and leave a small relocatable file. A program of its own, for the Python that has `bcc`.

It runs as a short-lived child (0.5 s, 125 MB of LLVM that must not stay in the agent), so it imports the standard library and
bcc alone. It reads the C source and writes JSON: each program's instructions with the places where a map is meant (the loader
puts its own descriptor there), and the maps as BCC understood them. `objectfile.py` is the reader and knows the format number.

    compile.py SOURCE HEADER HASH OUT     HEADER is what layout.py generates; HASH goes into the file as it is
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 2
PROGRAMS: Final = ("handle_ingress", "handle_egress")
UAPI: Final = Path("/usr/include/linux")
ASM_GENERIC: Final = Path("/usr/include/asm-generic")
ASM_FOLDERS: Final = (Path(f"/usr/include/{os.uname().machine}-linux-gnu/asm"), Path("/usr/include/asm"))
SCHED_CLS: Final = 3
INSTRUCTION_BYTES: Final = 8
LOAD_IMMEDIATE_64: Final = 0x18
MAP_DESCRIPTOR: Final = 1
CFLAGS: Final = ("-D__LINUX_BPF_H__", "-DCONFIG_BPF_SYSCALL", "-DPAGE_SIZE=4096")
TYPES_H: Final = """#ifndef VPCCNI_TYPES_H
#define VPCCNI_TYPES_H
#include <uapi/linux/types.h>
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;
typedef __s8 s8; typedef __s16 s16; typedef __s32 s32; typedef __s64 s64;
typedef _Bool bool; typedef unsigned long size_t; typedef unsigned long uintptr_t;
enum { false, true };
#endif
"""


def header_tree(root: Path) -> None:
    """Make below `root` the least that BCC takes for kernel headers: the UAPI headers of linux-libc-dev and a few stubs.

    A node has no kernel headers, and the programs need types alone.
    """
    include = root / "include"
    for folder in ("linux", "asm", "uapi"):
        (include / folder).mkdir(parents=True)
    (include / "uapi/linux").symlink_to(UAPI)
    (include / "asm-generic").symlink_to(ASM_GENERIC)
    for header in UAPI.glob("*.h"):
        (include / "linux" / header.name).symlink_to(f"../uapi/linux/{header.name}")
    for header in next(folder for folder in ASM_FOLDERS if folder.is_dir()).glob("*.h"):
        (include / "asm" / header.name).symlink_to(header)
    for stub, text in (("linux/types.h", TYPES_H), ("linux/kconfig.h", ""), ("linux/log2.h", ""), ("asm/page.h", "")):
        (include / stub).unlink(missing_ok=True)
        (include / stub).write_text(text)


def map_descriptors(code: bytes, names: dict[int, str]) -> list[list[Any]]:
    """Return `[instruction index, map name]` for every load of a map's descriptor in `code`."""
    found: list[list[Any]] = []
    for index in range(len(code) // INSTRUCTION_BYTES):
        at = index * INSTRUCTION_BYTES
        if code[at] == LOAD_IMMEDIATE_64 and code[at + 1] >> 4 == MAP_DESCRIPTOR:
            found.append([index, names[int.from_bytes(code[at + 4 : at + 8], "little", signed=True)]])
    return found


def compile_source(text: str) -> dict[str, Any]:
    """Return the file's content without the hash. Needs CAP_BPF: BCC makes the maps while it compiles."""
    from bcc import BPF, lib  # pyright: ignore[reportMissingImports]  # the system Python's, not the environment's

    def ask(function: str, index: int, kind: type[Any] = ctypes.c_size_t) -> Any:
        call = lib[function]
        call.restype, call.argtypes = kind, [ctypes.c_void_p, ctypes.c_size_t]
        return call(module.module, index)

    module = BPF(text=text, cflags=list(CFLAGS))
    maps: list[list[Any]] = []
    names: dict[int, str] = {}
    for index in range(lib.bpf_num_tables(module.module)):
        name = ask("bpf_table_name", index, ctypes.c_char_p).decode()
        names[ask("bpf_table_fd_id", index, ctypes.c_int)] = name
        sizes = [ask(f"bpf_table_{what}_id", index) for what in ("key_size", "leaf_size", "max_entries")]
        flags = ask("bpf_table_flags_id", index, ctypes.c_int)
        maps.append([name, ask("bpf_table_type_id", index, ctypes.c_int), *sizes, flags])
    programs = []
    for name in PROGRAMS:
        code = module.dump_func(name)
        programs.append({"name": name, "code": code.hex(), "maps": map_descriptors(code, names)})
    return {"format": FORMAT, "programs": programs, "maps": maps}


def main(argv: list[str]) -> int:
    source, header, digest, out = argv
    with tempfile.TemporaryDirectory(prefix="bpf-headers-") as folder:
        header_tree(Path(folder))
        os.environ["BCC_KERNEL_SOURCE"] = folder
        text = "#include <uapi/linux/bpf.h>\n" + Path(header).read_text() + Path(source).read_text()
        content = compile_source(text) | {"hash": digest}
    part = Path(f"{out}.{os.getpid()}")
    part.write_text(json.dumps(content))
    part.rename(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
