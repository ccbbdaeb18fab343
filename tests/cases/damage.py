"""Random damage to values and files: other types, lost keys, huge numbers, cut and flipped bytes."""

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

Draw = random.Random


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 10**6, 2**31, 2**63, -(2**63), 2**64, 10**30, -(10**30), 10**400),
    *(0.5, -1.5, 1e-320, 1e300, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "x",
        "0",
        "-1",
        "nan",
        "1e400",
        "\0",
        "\n",
        "é" * 40,
        "x" * 5000,
        "{}",
        "[",
        "{a",
        "%s",
        "../../..",
        "/",
    ),
    *("/dev/zero", "\ud800", "true", "name", "a.b", "[/x]", "(a", "auto", "mezo", "float32"),
    *([], {}, [[]], [{}], [None], [1, "x"], [0] * 50, {"": {}}, {"name": 1}, {"name": "mezo"}, {"a": {"b": [1]}}),
)
"""Values that are seldom meant."""


def odd(draw: Draw) -> Any:
    """A value that is seldom meant; now and then one that is nested deeply."""
    if draw.random() < 0.03:
        value: Any = 1
        for _ in range(draw.choice((30, 120))):
            value = [value] if draw.random() < 0.5 else {"a": value}
        return value
    return copy.deepcopy(draw.choice(ODD))


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(object or list, key or index) of all that is in a tree."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def changed(draw: Draw, value: Any) -> Any:
    """A value near another one."""
    if isinstance(value, bool) or value is None:
        return draw.choice((not value, str(value), 0))
    if isinstance(value, int | float):
        near = (-value, value + 1, value - 1, value * 10**6, 0, str(value), [value])
        return draw.choice((*near, float(value) if abs(value) < 10**300 else 1.0, int(value) if value == value else 0))
    if isinstance(value, str):
        middle = len(value) // 2
        return draw.choice((value[:middle], value * 2, value.upper(), value[middle:] + "é", f" {value}\n", [value]))
    if isinstance(value, list):
        return draw.choice((value[:-1], value * 2, value[::-1], [value], {str(i): v for i, v in enumerate(value)}))
    return draw.choice(([value], list(value), [[key, inner] for key, inner in value.items()]))


def damaged_tree(draw: Draw, tree: Any) -> tuple[str, Any]:
    """What was done to a value of JSON or TOML, and the value."""
    tree, said = copy.deepcopy(tree), []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = list(places(tree)) if isinstance(tree, dict | list) else []
        if not found or draw.random() < 0.02:
            tree = odd(draw)
            said.append(f"all of it: {tree!r}")
            continue
        holder, key = draw.choice(found)
        how = draw.choice(("odd", "odd", "odd", "near", "near", "delete", "other", "more"))
        if how == "odd":
            holder[key] = odd(draw)
        elif how == "near":
            holder[key] = changed(draw, holder[key])
        elif how == "other":
            other, place = draw.choice(found)
            holder[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
        elif how == "delete":
            del holder[key]
        elif isinstance(holder, dict):
            key = draw.choice(("", "name", "x", "not_finite", "\ud800", "a.b", *map(str, holder)))
            holder[key] = odd(draw)
        else:
            holder.insert(0, odd(draw))
        said.append(f"{how} {key!r}")
    return "; ".join(said), tree


def as_toml(tree: Any) -> bytes:
    """A value as TOML, without what TOML can't say."""

    def sayable(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sayable(one) for key, one in value.items() if one is not None}
        if isinstance(value, list):
            return [sayable(one) for one in value if one is not None]
        return value

    return tomli_w.dumps(sayable(tree) if isinstance(tree, dict) else {}).encode(errors="replace")


def as_json(draw: Draw, tree: Any) -> bytes:
    """A value as JSON, now and then with a key twice or a number of thousands of digits."""
    text = json.dumps(tree, ensure_ascii=draw.random() < 0.9)
    if draw.random() < 0.05 and isinstance(tree, dict) and tree:
        text = text[:-1] + f", {json.dumps(draw.choice(list(tree)))}: {json.dumps(odd(draw))}}}"
    if draw.random() < 0.03:
        text = re.sub(r"\b\d+\b", "1" * 5000, text, count=1)
    return text.encode(errors="surrogatepass")


def damaged_bytes(draw: Draw, content: bytes) -> tuple[str, bytes]:
    """What was done to the bytes of a file, and the bytes."""
    end = len(content)
    first, last = sorted(draw.randrange(end + 1) for _ in range(2))
    lines = content.split(b"\n")
    one, other = (draw.randrange(len(lines)) for _ in range(2))
    how = draw.choice(
        ("empty", "cut", "flip", "zeros", "no UTF-8", "junk", "line twice", "line gone", "lines swapped", "part gone")
    )
    if how == "flip":
        changed = bytearray(content)
        for _ in range(draw.randrange(1, 8) if end else 0):
            changed[draw.randrange(end)] ^= 1 << draw.randrange(8)
        return how, bytes(changed)
    if how == "lines swapped":
        lines[one], lines[other] = lines[other], lines[one]
    results = {
        "empty": b"",
        "cut": content[:first],
        "zeros": content[:first] + bytes(last - first) + content[last:],
        "no UTF-8": content[:first] + draw.choice((b"\xff\xfe", b"\x80", b"\xed\xa0\x80", b"\0")) + content[first:],
        "junk": content[:first] + draw.randbytes(20) + content[first:],
        "line twice": b"\n".join([*lines[:one], lines[one], *lines[one:]]),
        "line gone": b"\n".join([*lines[:one], *lines[one + 1 :]]),
        "lines swapped": b"\n".join(lines),
        "part gone": content[:first] + content[last:],
    }
    return f"{how} at {first}", results[how]


def damage_json(draw: Draw, path: Path) -> str:
    """Damage a file of JSON; returns what was done."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:  # it was damaged before
        return damage_bytes(draw, path)
    if draw.random() < 0.2:
        return damage_bytes(draw, path)
    what, tree = damaged_tree(draw, tree)
    path.write_bytes(as_json(draw, tree))
    return what


def damage_lines(draw: Draw, path: Path) -> str:
    """Damage a line of a file of JSON lines; returns what was done."""
    lines = path.read_bytes().splitlines()
    try:
        number = draw.choice((0, draw.randrange(len(lines))))
        tree = json.loads(lines[number])
    except ValueError:  # it was damaged before
        return damage_bytes(draw, path)
    if draw.random() < 0.2:
        return damage_bytes(draw, path)
    what, tree = damaged_tree(draw, tree)
    lines[number] = as_json(draw, tree)
    path.write_bytes(b"\n".join([*lines, b""]))
    return f"line {number + 1}, {what}"


def damage_toml(draw: Draw, path: Path) -> str:
    """Damage a file of TOML; returns what was done."""
    import tomllib

    try:
        tree = tomllib.loads(path.read_bytes().decode())
    except ValueError:  # it was damaged before
        return damage_bytes(draw, path)
    if draw.random() < 0.2:
        return damage_bytes(draw, path)
    what, tree = damaged_tree(draw, tree)
    path.write_bytes(as_toml(tree))
    return what


def damage_bytes(draw: Draw, path: Path) -> str:
    """Damage a file of any kind; returns what was done."""
    what, content = damaged_bytes(draw, path.read_bytes())
    path.write_bytes(content)
    return what


def damage_safetensors(draw: Draw, path: Path) -> str:
    """Damage the header of a safetensors file; returns what was done."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    try:
        tree = json.loads(content[8 : 8 + size])
    except ValueError:  # it was damaged before
        return damage_bytes(draw, path)
    if draw.random() < 0.2:
        return damage_bytes(draw, path)
    what, tree = damaged_tree(draw, tree)
    header = as_json(draw, tree)
    said = draw.choice((len(header), len(header), len(header), 0, 2**63, 2**40, len(header) + 1))
    path.write_bytes(said.to_bytes(8, "little") + header + content[8 + size :])
    return f"{what}, header said to have {said} bytes"
