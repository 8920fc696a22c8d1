"""Tokens of Metal source, and the C preprocessor that produces them.

Metal Shading Language is C++14 with a C preprocessor in front. Real kernels hide whole signatures and explicit
instantiations behind ``#define``, so whoever wants to *know* a kernel has to preprocess first. Every token keeps the
file and line the user wrote it on; a token that came out of a macro keeps the line of the macro's use.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elinvar.errors import MetalSyntaxError

from .constexpr import evaluate

__all__ = ["PREDEFINED", "Token", "fail", "preprocess", "splice_includes", "tokenize"]

# What Apple's compiler predefines, as far as kernels test it: Metal 3.1, macOS, bfloat present.
PREDEFINED: Mapping[str, str] = {
    "__METAL_VERSION__": "310",
    "__METAL__": "1",
    "__METAL_MACOS__": "1",
    "__HAVE_BFLOAT__": "1",
}
SYSTEM_HEADERS = re.compile(r"metal_\w+|simd/simd\.h|array|stdint\.h")

_SCANNER = re.compile(
    r"""
    (?P<space>(?:[ \t\r\f\v]|\\\n)+)
  | (?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
  | (?P<newline>\n)
  | (?P<string>"(?:\\.|[^"\\\n])*")
  | (?P<char>'(?:\\.|[^'\\\n])*')
  | (?P<number>\.?\d(?:[eEpP][+-]|'?[\w.])*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark>\.\.\.|<<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|::|[-+*/%&|^~!<>=?:;,.(){}\[\]\#])
    """,
    re.VERBOSE | re.DOTALL,
)


class Token:
    """One token: its kind, text, and where the user wrote it.

    `kind` is ``name``, ``number``, ``string``, ``char``, ``mark`` or ``pragma`` (whose text is what follows
    ``#pragma``); inside the preprocessor also ``newline``.
    """

    __slots__ = ("file", "hide", "kind", "line", "spaced", "text")

    def __init__(
        self,
        kind: str,
        text: str,
        line: int,
        file: str = "",
        *,
        spaced: bool = False,
        hide: frozenset[str] = frozenset(),
    ) -> None:
        self.kind = kind
        self.text = text
        self.line = line
        self.file = file
        self.spaced = spaced
        self.hide = hide

    def __repr__(self) -> str:
        return f"{self.text}@{self.line}"

    def moved(self, where: Token, hide: frozenset[str]) -> Token:
        """Return a copy of this token that stands where a macro was used."""
        return Token(self.kind, self.text, where.line, where.file, spaced=self.spaced, hide=self.hide | hide)


def fail(where: Token | tuple[str, int], message: str) -> MetalSyntaxError:
    """Return the error to raise: ``file:line: message``."""
    file, line = (where.file, where.line) if isinstance(where, Token) else where
    return MetalSyntaxError(f"{file or '<source>'}:{line}: {message}")


def tokenize(text: str, file: str = "") -> list[Token]:
    """Split source text into tokens, newlines included, comments dropped.

    Raises
    ------
    MetalSyntaxError
        For a character outside ASCII, an unterminated comment or literal, or a stray character.
    """
    tokens: list[Token] = []
    line, position, spaced = 1, 0, False
    while position < len(text):
        match = _SCANNER.match(text, position)
        if match is None or (match.group() == "/" and text.startswith("/*", position)):
            raise fail((file, line), _stray(text, position))
        kind, piece = str(match.lastgroup), match.group()
        if not piece.isascii():
            bad = next(c for c in piece if not c.isascii())
            raise fail((file, line + piece[: piece.index(bad)].count("\n")), _not_ascii(bad))
        if kind in {"space", "comment"}:
            spaced = True
        else:
            tokens.append(Token(kind, piece, line, file, spaced=spaced))
            spaced = False
        line += piece.count("\n")
        position = match.end()
    tokens.append(Token("newline", "\n", line, file))
    return tokens


def _not_ascii(bad: str) -> str:
    return f"the character {bad!r} is not ASCII; Metal source here is ASCII, comments included"


def _stray(text: str, position: int) -> str:
    bad = text[position]
    if not bad.isascii():
        return _not_ascii(bad)
    if text.startswith("/*", position):
        return "this comment is never closed"
    return f"this {bad} literal is never closed" if bad in "\"'" else f"the character {bad!r} means nothing in Metal"


def splice_includes(text: str, path: Path | None) -> str:
    """Put the text of every ``#include "file"`` in its place, once each, with ``#line`` marks around it.

    ``torch.mps.compile_shader`` is given text without a folder, so this is done before any compiler sees the source.
    """
    seen: set[Path] = set()

    def splice(body: str, here: Path | None) -> Iterator[str]:
        for number, line in enumerate(body.split("\n"), 1):
            match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if match is None:
                yield line
                continue
            name = here.name if here else ""
            if here is None:
                raise fail(("", number), f'#include "{match[1]}" needs a file to start from; compile a path instead')
            target = (here.parent / match[1]).resolve()
            if not target.is_file():
                raise fail((name, number), f'#include "{match[1]}": there is no such file beside {name}')
            if target not in seen:
                seen.add(target)
                yield f'#line 1 "{target.name}"'
                yield from splice(target.read_text(encoding="utf-8"), target)
            yield f'#line {number + 1} "{name}"'

    if '"' not in text or "include" not in text:
        return text
    return "\n".join(splice(text, path.resolve() if path else None))


def torch_header(name: str) -> str | None:
    """Return one of torch's own Metal headers, which ``torch.mps.compile_shader`` offers to every kernel, or None."""
    if not re.fullmatch(r"c10/metal/\w+\.h", name):
        return None
    found = importlib.util.find_spec("torch")
    path = Path(found.origin).parent / "include" / name if found is not None and found.origin else None
    if path is None or not path.is_file():
        return None
    return path.read_text(encoding="ascii", errors="replace").replace("\ufffd", "?")  # its comments are not all ASCII


@dataclass(frozen=True)
class _Macro:
    params: tuple[str, ...] | None
    variadic: bool
    body: tuple[Token, ...]


class _Preprocessor:
    def __init__(self, defines: Mapping[str, str]) -> None:
        self.macros: dict[str, _Macro] = {}
        for name, value in {**PREDEFINED, **defines}.items():
            self.macros[name] = _Macro(None, False, tuple(t for t in tokenize(value) if t.kind != "newline"))
        self.out: list[Token] = []
        self.waiting: list[Token] = []
        self.taking: list[list[bool]] = []  # per open #if: [taking now, some branch already taken, parent taking]
        self.shift = 0
        self.file: str | None = None
        self.included: set[str] = set()

    # ---- directives -------------------------------------------------------------------------------------------
    def run(self, tokens: list[Token]) -> list[Token]:
        self.file_of(tokens)
        if self.taking:
            raise fail(tokens[-1], "an #if is never closed by #endif")
        return self.out

    def file_of(self, tokens: list[Token]) -> None:
        """Preprocess one file's tokens."""
        index = 0
        while index < len(tokens):
            end = index
            while tokens[end].kind != "newline":
                end += 1
            line = tokens[index:end]
            for token in line:
                token.line += self.shift
                if self.file is not None:
                    token.file = self.file
            if line and line[0].text == "#":
                self.flush()
                self.directive(line, tokens[end])
            elif self.live:
                self.waiting.extend(line)
            index = end + 1
        self.flush()

    @property
    def live(self) -> bool:
        return all(state[0] for state in self.taking)

    def flush(self) -> None:
        self.out.extend(self.expand(self.waiting))
        self.waiting = []

    def directive(self, line: list[Token], newline: Token) -> None:
        if len(line) == 1:
            return
        word, rest = line[1].text, line[2:]
        if word in {"if", "ifdef", "ifndef", "elif", "else", "endif"}:
            self.conditional(word, rest, line[0])
        elif not self.live:
            return
        elif word == "define":
            self.define(rest, line[0])
        elif word == "undef" and rest:
            self.macros.pop(rest[0].text, None)
        elif word == "include":
            self.include(rest, line[0])
        elif word == "pragma":
            text = " ".join(token.text for token in rest)
            self.out.append(Token("pragma", text, line[0].line, line[0].file))
        elif word == "error":
            raise fail(line[0], "#error " + " ".join(token.text for token in rest))
        elif word == "line" and rest:
            self.shift += int(rest[0].text) - (line[0].line + 1)
            if len(rest) > 1:
                self.file = rest[1].text.strip('"')
        elif word not in {"line", "warning"}:
            raise fail(line[0], f"#{word} is not a preprocessor directive Metal has")

    def conditional(self, word: str, rest: list[Token], where: Token) -> None:
        if word in {"if", "ifdef", "ifndef"}:
            outer = self.live
            truth = outer and self.truth(word, rest, where)
            self.taking.append([truth, truth or not outer])
            return
        if not self.taking:
            raise fail(where, f"#{word} without an #if")
        state = self.taking[-1]
        if word == "endif":
            self.taking.pop()
        elif word == "else":
            state[0], state[1] = not state[1], True
        else:
            state[0] = not state[1] and self.truth("if", rest, where)
            state[1] = state[1] or state[0]

    def truth(self, word: str, rest: list[Token], where: Token) -> bool:
        if not rest:
            raise fail(where, f"#{word} needs something to test")
        if word != "if":
            return (rest[0].text in self.macros) == (word == "ifdef")
        tested: list[Token] = []
        index = 0
        while index < len(rest):
            token = rest[index]
            if token.text == "defined":
                index += 2 if index + 1 < len(rest) and rest[index + 1].text == "(" else 1
                known = index < len(rest) and rest[index].text in self.macros
                tested.append(Token("number", str(int(known)), token.line, token.file))
                index += 2 if rest[index - 1].text == "(" else 1
            elif token.text in {"__has_include", "__has_feature", "__has_builtin", "__has_attribute"}:
                tested.append(Token("number", "0", token.line, token.file))
                while index < len(rest) and rest[index].text != ")":
                    index += 1
                index += 1
            else:
                tested.append(token)
                index += 1
        value = evaluate([t.text for t in self.expand(tested)], lambda name: int(name == "true"))
        if value is None:
            raise fail(where, "this #if condition is not an integer expression")
        return bool(value)

    def define(self, rest: list[Token], where: Token) -> None:
        if not rest or rest[0].kind != "name":
            raise fail(where, "#define needs a name")
        name, params, variadic, start = rest[0].text, None, False, 1
        if len(rest) > 1 and rest[1].text == "(" and not rest[1].spaced:
            end = next((i for i, t in enumerate(rest) if t.text == ")"), None)
            if end is None:
                raise fail(where, f"the parameter list of macro {name} is never closed")
            names = [t.text for t in rest[2:end] if t.text != ","]
            variadic = bool(names) and names[-1] == "..."
            params, start = tuple(names[:-1] if variadic else names), end + 1
        self.macros[name] = _Macro(params, variadic, tuple(rest[start:]))

    def include(self, rest: list[Token], where: Token) -> None:
        name = "".join(token.text for token in rest).strip('<>"')
        if SYSTEM_HEADERS.fullmatch(name):
            return
        text = torch_header(name)
        if text is None:
            raise fail(
                where,
                f"#include <{name}> is not available; Metal's own headers, torch's <c10/metal/...> and files beside "
                "the source are",
            )
        if name not in self.included:
            self.included.add(name)
            outer = self.shift, self.file
            self.shift, self.file = 0, name
            self.file_of(tokenize(text, name))
            self.shift, self.file = outer

    # ---- expansion --------------------------------------------------------------------------------------------
    def expand(self, tokens: list[Token]) -> list[Token]:
        out: list[Token] = []
        stack = tokens[::-1]
        while stack:
            token = stack.pop()
            if token.kind != "name":
                out.append(token)
                continue
            macro = None if token.text in token.hide else self.macros.get(token.text)
            if macro is None:
                out.append(self.special(token, stack))
            elif macro.params is None:
                stack.extend(reversed(self.substitute(macro, {}, token)))
            elif stack and stack[-1].text == "(":
                arguments = self.arguments(stack, macro, token)
                stack.extend(reversed(self.substitute(macro, arguments, token)))
            else:
                out.append(token)
        return out

    def special(self, token: Token, stack: list[Token]) -> Token:
        if token.text == "__LINE__":
            return Token("number", str(token.line), token.line, token.file, spaced=token.spaced)
        if token.text == "_Pragma" and len(stack) > 2 and stack[-1].text == "(":
            stack.pop()
            text = stack.pop().text.strip('"')
            stack.pop()
            return Token("pragma", text, token.line, token.file)
        return token

    def arguments(self, stack: list[Token], macro: _Macro, name: Token) -> dict[str, list[Token]]:
        stack.pop()
        found: list[list[Token]] = [[]]
        depth = 0
        assert macro.params is not None
        while True:
            if not stack:
                raise fail(name, f"the call of macro {name.text} is never closed")
            token = stack.pop()
            if token.text == ")" and depth == 0:
                break
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            full = macro.variadic and len(found) > len(macro.params)
            if token.text == "," and depth == 0 and not full:
                found.append([])
            else:
                found[-1].append(token)
        if found == [[]] and not macro.params:
            found = []
        wanted = len(macro.params)
        if len(found) < wanted or (len(found) > wanted and not macro.variadic):
            raise fail(name, f"macro {name.text} takes {wanted} arguments, {len(found)} given")
        result = dict(zip(macro.params, found, strict=False))
        if macro.variadic:
            result["__VA_ARGS__"] = found[wanted] if len(found) > wanted else []
        return result

    def substitute(self, macro: _Macro, arguments: dict[str, list[Token]], use: Token) -> list[Token]:
        hide = use.hide | {use.text}
        out: list[Token] = []
        body = macro.body
        index = 0
        while index < len(body):
            token = body[index]
            after = body[index + 1] if index + 1 < len(body) else None
            if token.text == "#" and macro.params is not None and after is not None and after.text in arguments:
                out.append(Token("string", _stringize(arguments[after.text]), use.line, use.file, spaced=True))
                index += 2
            elif token.text == "##" and out and after is not None:
                raw = arguments.get(after.text)
                right = [after] if raw is None else raw
                if raw is not None and after.text == "__VA_ARGS__" and out[-1].text == ",":
                    out = out[:-1] if not raw else out + [t.moved(use, hide) for t in raw]
                elif right:
                    out[-1:] = _paste(out[-1], right[0], use, hide)
                    out.extend(t.moved(use, hide) for t in right[1:])
                index += 2
            elif token.text in arguments:
                pasted = after is not None and after.text == "##"
                piece = arguments[token.text] if pasted else self.expand(list(arguments[token.text]))
                moved = [t.moved(use, hide if pasted else frozenset()) for t in piece]
                if not moved and pasted:
                    moved = [Token("mark", "", use.line, use.file)]
                if moved:
                    moved[0].spaced = token.spaced
                out.extend(moved)
                index += 1
            else:
                out.append(token.moved(use, hide))
                index += 1
        if out:
            out[0].spaced = use.spaced
        return [t for t in out if t.text]


def _stringize(tokens: list[Token]) -> str:
    text = "".join((" " if t.spaced and i else "") + t.text for i, t in enumerate(tokens))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _paste(left: Token, right: Token, use: Token, hide: frozenset[str]) -> list[Token]:
    joined = [t for t in tokenize(left.text + right.text) if t.kind != "newline"]
    if len(joined) > 1:
        raise fail(use, f"## cannot join {left.text!r} and {right.text!r} into one token")
    return [
        Token(t.kind, t.text, use.line, use.file, spaced=left.spaced, hide=left.hide | right.hide | hide)
        for t in joined
    ]


def preprocess(text: str, defines: Mapping[str, str], file: str = "") -> list[Token]:
    """Tokenize and preprocess source text.

    Parameters
    ----------
    text
        Metal source whose quoted includes are already spliced in.
    defines
        Macros defined before the first line, as name to replacement text.
    file
        Name to show in messages.

    Returns
    -------
    list[Token]
        Tokens of the active branches with every macro expanded; pragmas stay as tokens of kind ``pragma``.

    Raises
    ------
    MetalSyntaxError
        With file and line, for anything the preprocessor cannot digest.
    """
    return _Preprocessor(defines).run(tokenize(text, file))
