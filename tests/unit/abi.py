"""Asks a C compiler what the headers say: values of expressions, and the bytes of structures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.process import run


@dataclass(frozen=True)
class Structure:
    """A structure with something in each field that matters; all other bytes are zero.

    :param type: its C type.
    :param fields: designators (without the dot) and C expressions.
    """

    type: str
    fields: Mapping[str, object]

    def dump(self, name: str) -> str:
        fields = ", ".join(f".{field} = {value}" for field, value in self.fields.items())
        return f"{{ {self.type} it; memset(&it, 0, sizeof(it)); it = ({self.type}){{ {fields} }}; DUMP({name}, it); }}"


_PROGRAM = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <errno.h>
%(includes)s
#define DUMP(name, it) do { \\
    const unsigned char *at = (const unsigned char *)&(it); \\
    printf("\\"%%s\\": \\"", #name); \\
    for (size_t i = 0; i < sizeof(it); i++) printf("%%02x", at[i]); \\
    printf("\\",\\n"); \\
} while (0)
int main(void)
{
    printf("{");
%(statements)s
    printf("\\"\\": 0}\\n");
    return 0;
}
"""


def ask(
    directory: Path,
    includes: Sequence[str],
    *,
    expressions: Sequence[str] = (),
    structures: Mapping[str, Structure] | None = None,
    options: Sequence[str] = (),
) -> dict[str, int | str]:
    """Compile and run a program that prints them.

    :param directory: where the program is put.
    :param includes: headers, as they stand behind ``#include``.
    :param expressions: integer expressions.
    :param structures: by name, which must be an identifier.
    :param options: for the compiler, such as ``-I`` of other headers that declare the same things.
    :return: each expression's value, and the bytes of each structure in hexadecimal.
    :raise LaunchError: the headers lack something; carries the compiler's words.
    """
    statements = [f'printf("\\"%s\\": %lld,\\n", {json.dumps(e)}, (long long)({e}));' for e in expressions]
    statements += [structure.dump(name) for name, structure in (structures or {}).items()]
    source, program = directory / "abi.c", directory / "abi"
    source.write_text(
        _PROGRAM
        % {"includes": "\n".join(f"#include {header}" for header in includes), "statements": "\n".join(statements)}
    )
    deadline = Deadline(60, "compiling a program that prints the ABI")
    run("gcc", ["gcc", "-w", *options, "-o", str(program), str(source)], deadline)
    answers: dict[str, int | str] = json.loads(run("the ABI program", [str(program)], deadline))
    del answers[""]
    return answers
