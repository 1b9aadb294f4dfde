"""The documents of the repository: their sections, tables, code blocks and links."""

import re
import textwrap
from collections.abc import Iterator
from functools import cached_property

from support.paths import TOP

FOLDERS = ("config", "daemon", "sql", "systemd", "tests")


class Document:
    """A Markdown file. `name` is its path from the top of the repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = TOP / name
        self.text = self.path.read_text(encoding="utf-8")

    @cached_property
    def sections(self) -> dict[str, str]:
        """The text below each heading, up to the next heading of any level. The text before the first is under ''."""
        found, heading = {"": ""}, ""
        for line, is_code in self._lines():
            if not is_code and (match := re.match(r"#+ (.*)", line)):
                heading = match[1]
                assert heading not in found, f"{self.name}: two sections are named {heading}"
                found[heading] = ""
            else:
                found[heading] += f"{line}\n"
        return found

    @cached_property
    def anchors(self) -> set[str]:
        """What a link to a section names, as GitHub makes it of the heading."""
        return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in self.sections}

    @cached_property
    def prose(self) -> str:
        """The text without code blocks."""
        return "".join(f"{line}\n" for line, is_code in self._lines() if not is_code)

    @property
    def links(self) -> list[str]:
        """The targets of the links."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def words(self) -> list[str]:
        """The code words in the text."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    def blocks(self, language: str, section: str | None = None) -> list[str]:
        """Return the code blocks of a language ('' for plain ones), of one section or of all."""
        text = self.text if section is None else self.sections[section]
        blocks = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
        return [textwrap.dedent(block) for _, found, block in blocks if found == language]

    def commands(self, section: str | None = None) -> list[str]:
        """Return the shell lines without their comments, of one section or of all."""
        lines = "".join(self.blocks("sh", section)).splitlines()
        return [re.sub(r"\s+# .*", "", line) for line in lines]

    def rows(self, section: str, head: str | None = None) -> list[list[str]]:
        """Return the cells of the tables in a section without their heads, of all or of those whose head begins so."""
        found, table = [], []
        for line in [*self.sections[section].splitlines(), ""]:
            if line.startswith("|"):
                table.append([cell.strip() for cell in line[1:-1].split("|")])
            elif table:
                found += table[2:] if head in {None, table[0][0]} else []
                table = []
        return found

    def first_words(self, section: str, head: str | None = None) -> list[str]:
        """Return the code words in the first cells of the tables in a section."""
        return [word for cells in self.rows(section, head) for word in re.findall(r"`([^`]+)`", cells[0])]

    def _lines(self) -> Iterator[tuple[str, bool]]:
        """Yield each line, and whether it belongs to a code block."""
        is_code = False
        for line in self.text.splitlines():
            is_fence = line.lstrip().startswith("```")
            yield line, is_code or is_fence
            is_code ^= is_fence


def documents() -> list[Document]:
    """Return all documents of the repository."""
    paths = [*TOP.glob("*.md"), *(path for folder in FOLDERS for path in (TOP / folder).rglob("*.md"))]
    return [Document(str(path.relative_to(TOP))) for path in sorted(paths)]
