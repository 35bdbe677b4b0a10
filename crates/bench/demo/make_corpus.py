#!/usr/bin/env python3
"""Make the demo corpora from two Debian documentation packages.

The PostgreSQL manual (postgresql-doc-15) becomes the texts the demo trains on, a
sample of the Rust documentation (rust-doc) the texts it looks at beside them. One
HTML page is one document, one JSON object {"id", "text"} a line. The same packages
give the same bytes: pages are sorted by id, split and sampled by a hash of the id, and
compressed without a time stamp.

Needs Python 3.11 (standard library only), dpkg-deb, and apt-get where the packages
are not given as files.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

POSTGRES_PACKAGE = "postgresql-doc-15"
RUST_PACKAGE = "rust-doc"

# Pages of the manual that are lists rather than text.
MANUAL_DROPPED = {"index", "legalnotice", "bookindex", "biblio", "sql-keywords-appendix"}

# The mdBook books that are sampled: all under MIT or Apache-2.0, unlike the embedded book.
RUST_BOOKS = ["book", "edition-guide", "nomicon", "reference", "rust-by-example", "rustc", "rustdoc"]

RUST_TEXT_LIMIT = 950_000  # bytes of text, train and held-out together
COMPRESSED_LIMIT = 3_000_000  # bytes of all .gz files together
SHORTEST_PAGE = 200  # bytes of text; shorter pages hold links and little else
HELD_OUT_ONE_IN = 10


class CorpusError(Exception):
    """What went wrong and what to do about it, in words for the user."""


# --- HTML to text ---------------------------------------------------------------------

VOID_TAGS = frozenset("area base br col embed hr img input link meta source track wbr".split())
BLOCK_TAGS = frozenset(
    "address article aside blockquote body dd details div dl dt figcaption figure footer h1 h2 h3 h4 h5 h6 "
    "header hr li main ol p pre section summary table td th tr ul".split()
)
SKIPPED_TAGS = frozenset("button head label nav noscript object script style".split())
SKIPPED_CLASSES = frozenset(
    # DocBook: page header, page footer, table of contents.
    "navheader navfooter toc "
    # mdBook: code lines hidden from the reader, buttons, footnote numbers.
    "boring buttons footnote-reference footnote-definition-label "
    # rustdoc: fold and source links, and what hangs on code examples ("Run", a warning sign).
    "hideme out-of-band test-arrow tooltip".split()
)
LAYOUT_SPACE = re.compile(r"[ \t\r\n\f]+")  # not NBSP: it is spacing that the author asked for
LINK_SIGNS = {"§", "↩"}  # the whole text of a link: to a commit, back from a footnote
LINE_BREAK = "\0"  # stands for <br> until the layout white space around it is gone


@dataclass
class Element:
    tag: str
    root: bool
    skipped: bool


@dataclass
class TextList:
    """An open <ul>, <ol> or <dl>."""

    ordered: bool
    nested: bool
    items: int = 0
    blocks_in_item: int = 0
    after_term: bool = False


@dataclass(eq=False)
class Flow:
    """Blocks of text under way, each with the line ends that go before it."""

    blocks: list[tuple[str, str]] = field(default_factory=list)
    lists: list[TextList] = field(default_factory=list)

    def text(self) -> str:
        return "".join((gap if at else "") + block for at, (gap, block) in enumerate(self.blocks))


@dataclass
class Table:
    rows: list[str] = field(default_factory=list)
    cells: list[Flow] = field(default_factory=list)
    in_row: bool = False


class PageText(HTMLParser):
    """Collects the text under the elements that `is_root(tag, classes)` accepts."""

    def __init__(self, is_root):
        super().__init__(convert_charrefs=True)
        self.is_root = is_root
        self.open: list[Element] = []
        self.roots = 0
        self.skipped = 0
        self.pre = 0
        self.inline: list[str] = []
        self.flows = [Flow()]
        self.tables: list[Table] = []
        self.gap: str | None = None  # what goes before the next block, if not a blank line
        self.marker = ""  # the bullet or number that the next block starts with
        self.superscript = False

    def text(self) -> str:
        self.close()
        while self.open:
            self.leave(self.open.pop())
        self.flush()
        return self.flows[0].text()

    # Parser events.

    def handle_starttag(self, tag, attrs):
        if tag in VOID_TAGS:
            if tag == "br" and self.reading():
                self.inline.append("\n" if self.pre else LINE_BREAK)
            elif tag == "hr" and self.reading():
                self.flush()
            return
        attrs = dict(attrs)
        classes = (attrs.get("class") or "").split()
        element = Element(
            tag,
            root=self.is_root(tag, classes),
            skipped=tag in SKIPPED_TAGS or not SKIPPED_CLASSES.isdisjoint(classes),
        )
        self.open.append(element)
        self.roots += element.root
        self.skipped += element.skipped
        if self.reading():
            self.enter(tag, classes)

    def handle_endtag(self, tag):
        if tag in VOID_TAGS or all(element.tag != tag for element in self.open):
            return
        while True:  # elements left open inside this one end with it
            element = self.open.pop()
            self.leave(element)
            if element.tag == tag:
                return

    def handle_data(self, data):
        if not self.reading():
            return
        if data.strip() in LINK_SIGNS:
            return
        data = data.replace("\u200b", "")  # zero-width space: a place to break a long word
        if self.superscript and self.inline and re.fullmatch(r"\d+", data):
            data = "^" + data  # 2<sup>31</sup> is not 231
        self.inline.append(data)

    # Structure.

    def reading(self) -> bool:
        return self.roots > 0 and self.skipped == 0

    def enter(self, tag, classes):
        if tag in BLOCK_TAGS:
            self.flush()
        lists = self.flows[-1].lists
        match tag:
            case "pre":
                self.pre += 1
            case "sup":
                self.superscript = not classes
            case "ul" | "ol" | "dl":
                lists.append(TextList(ordered=tag == "ol", nested=bool(lists) and lists[-1].blocks_in_item > 0))
            case "li" if lists:
                self.start_item(lists[-1], len(lists))
            case "dt" if lists:
                self.gap = "\n" if lists[-1].after_term else None
                lists[-1].after_term = True
            case "dd" if lists:
                self.gap = "\n"
                lists[-1].after_term = False
            case "table":
                self.tables.append(Table())
            case "tr" if self.tables:
                self.tables[-1].in_row = True
                self.tables[-1].cells = []
            case "td" | "th" if self.tables and self.tables[-1].in_row:
                self.flows.append(Flow())
                self.tables[-1].cells.append(self.flows[-1])

    def leave(self, element: Element):
        if self.reading():
            self.exit(element.tag)
        self.roots -= element.root
        self.skipped -= element.skipped

    def exit(self, tag):
        if tag in BLOCK_TAGS:
            self.flush()
        lists = self.flows[-1].lists
        match tag:
            case "pre":
                self.pre -= 1
            case "sup":
                self.superscript = False
            case "ul" | "ol" | "dl" if lists:
                lists.pop()
                self.gap = None
            case "li" | "dd":
                self.gap, self.marker = None, ""
            case "td" | "th" if self.tables and self.flows[-1] in self.tables[-1].cells:
                self.flows.pop()
                self.gap, self.marker = None, ""
            case "tr" if self.tables and self.tables[-1].in_row:
                self.end_row(self.tables[-1])
            case "table" if self.tables:
                rows = self.tables.pop().rows
                # Rows of several lines need a blank line between them to be told apart.
                between = "\n\n" if any("\n" in row for row in rows) else "\n"
                self.emit(between.join(rows))

    def start_item(self, parent: TextList, depth: int):
        if parent.items == 0:
            self.gap = "\n" if parent.nested else self.gap
        else:
            self.gap = "\n\n" if parent.blocks_in_item > 1 else "\n"
        parent.items += 1
        parent.blocks_in_item = 0
        bullet = f"{parent.items}. " if parent.ordered else "- "
        self.marker = "  " * (depth - 1) + bullet

    def end_row(self, table: Table):
        table.in_row = False
        filled = [cell for cell in table.cells if cell.blocks]
        if len(filled) == 1:
            # One cell is an entry of its own: signature, description, examples.
            table.rows.append("\n".join(block for _, block in filled[0].blocks))
        elif filled:
            row = (" ".join(" ".join(block.split()) for _, block in cell.blocks) for cell in table.cells)
            table.rows.append(" | ".join(row).rstrip())

    # Blocks.

    def flush(self):
        """Ends the block under way."""
        raw = "".join(self.inline)
        self.inline.clear()
        if self.pre:
            lines = [line.rstrip() for line in raw.replace("\xa0", " ").split("\n")]
            while lines and not lines[0]:
                lines.pop(0)
            while lines and not lines[-1]:
                lines.pop()
            if lines:
                self.marker = ""  # code stays as it is, even as the first block of an item
                self.emit("\n".join(lines))
            return
        lines = (LAYOUT_SPACE.sub(" ", line).strip(" ") for line in raw.split(LINE_BREAK))
        lines = (line.replace("\xa0", " ").rstrip() for line in lines)
        block = "\n".join(line for line in lines if line)
        if block:
            self.emit(block)

    def emit(self, block: str):
        if not block:
            return
        flow = self.flows[-1]
        flow.blocks.append((self.gap or "\n\n", self.marker + block))
        self.gap, self.marker = None, ""
        if flow.lists:
            flow.lists[-1].blocks_in_item += 1


def page_text(html: str, is_root) -> str:
    parser = PageText(is_root)
    parser.feed(html)
    return parser.text()


# --- The pages of the two packages ------------------------------------------------------


def read_html(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error


def manual_pages(root: Path) -> dict[str, str]:
    """The pages of the PostgreSQL manual: id to text."""
    html = root / "usr/share/doc" / POSTGRES_PACKAGE / "html"
    files = [path for path in html.glob("*.html") if path.stem not in MANUAL_DROPPED]
    if not files:
        raise CorpusError(f"no pages in {html}: another layout than {POSTGRES_PACKAGE} 15.20 has")
    return usable({path.stem: page_text(read_html(path), lambda tag, _: tag == "body") for path in files})


def rust_pages(root: Path) -> dict[str, str]:
    """The prose pages of the Rust documentation: id to text."""
    html = root / "usr/share/doc" / RUST_PACKAGE / "html"
    pages = {}
    for book in RUST_BOOKS:
        index = html / book / "index.html"
        # A book's own table of contents names its chapters and leaves out old editions and the print page.
        chapters = re.findall(r'<li class="chapter-item[^"]*"><a href="([^":#]+)\.html"', read_html(index))
        if not chapters:
            raise CorpusError(f"no chapters named in {index}: another layout than {RUST_PACKAGE} 1.63 has")
        for chapter in sorted(set(chapters)):
            path = html / book / f"{chapter}.html"
            pages[f"{book}/{chapter}"] = page_text(read_html(path), lambda tag, _: tag == "main")
    # Of the standard library, what its authors wrote on modules and keywords: the title and
    # the documentation above the generated list of items.
    for path in [*html.glob("std/**/index.html"), *html.glob("std/keyword.*.html")]:
        name = path.relative_to(html).with_suffix("").as_posix()
        pages[name] = page_text(read_html(path), lambda _, classes: "fqn" in classes or "top-doc" in classes)
    return usable(pages)


def usable(pages: dict[str, str]) -> dict[str, str]:
    """Without pages that are too short or repeat another page's text."""
    seen = set()
    kept = {}
    for name in sorted(pages):
        text = pages[name]
        if len(text.encode()) >= SHORTEST_PAGE and text not in seen:
            seen.add(text)
            kept[name] = text
    return kept


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sample(pages: dict[str, str], limit: int) -> dict[str, str]:
    """Pages in the order of a hash of their ids, until the next would pass `limit` bytes."""
    kept, size = {}, 0
    # The prefix keeps this order independent of the split, which hashes the bare id.
    for name in sorted(pages, key=lambda name: (hash_of("sample:" + name), name)):
        size += len(pages[name].encode())
        if size > limit:
            break
        kept[name] = pages[name]
    return kept


def is_held_out(name: str) -> bool:
    return hash_of(name) % HELD_OUT_ONE_IN == 0


# --- Licences ---------------------------------------------------------------------------


def manual_licence(root: Path) -> str:
    """The manual's own legal notice."""
    path = root / "usr/share/doc" / POSTGRES_PACKAGE / "html/legalnotice.html"
    notice = page_text(read_html(path), lambda tag, _: tag == "body")
    return "\n\n".join(textwrap.fill(block, 90) for block in notice.split("\n\n")) + "\n"


def rust_licence(root: Path) -> str:
    """Who holds the copyright in the Rust documentation, and its two licences in full."""
    folder = root / "usr/share/doc" / RUST_PACKAGE
    try:
        stanzas = (folder / "copyright").read_text(encoding="utf-8").split("\n\n")
        mit = (folder / "html/LICENSE-MIT.txt").read_text(encoding="utf-8")
        with gzip.open(folder / "html/LICENSE-APACHE.txt.gz", "rt", encoding="utf-8") as file:
            apache = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read the licences in {folder}: {error}") from error
    holders = [
        line.strip()
        for stanza in stanzas
        if (found := re.match(r"Files:(.*?)^Copyright:(.*?)^License:", stanza.strip(), re.DOTALL | re.MULTILINE))
        and "src/doc/*" in found[1].split()
        for line in found[2].strip().split("\n")
    ]
    if not holders:
        raise CorpusError(f"{folder / 'copyright'} does not name src/doc/*, as {RUST_PACKAGE} 1.63 does")
    return (
        "The Rust documentation is under the MIT licence or the Apache License, Version 2.0,\n"
        "at your option. Copyright:\n\n"
        + "".join(f"    {holder}\n" for holder in holders)
        + f"\n{rule('MIT')}\n{mit.strip()}\n\n{rule('Apache-2.0')}\n{apache.strip(chr(10))}\n"
    )


def rule(title: str) -> str:
    return f"{title} ".ljust(80, "-") + "\n"


# --- Output -----------------------------------------------------------------------------


@dataclass
class Part:
    """One of the files of text."""

    name: str
    pages: int
    text_bytes: int
    packed: bytes
    sha256: str  # of the unpacked lines, which do not depend on the gzip at hand

    @staticmethod
    def of(name: str, pages: dict[str, str]) -> "Part":
        lines = "".join(
            json.dumps({"id": key, "text": pages[key]}, ensure_ascii=False) + "\n" for key in sorted(pages)
        ).encode()
        return Part(
            name=f"{name}.jsonl.gz",
            pages=len(pages),
            text_bytes=sum(len(text.encode()) for text in pages.values()),
            packed=gzip.compress(lines, compresslevel=9, mtime=0),
            sha256=hashlib.sha256(lines).hexdigest(),
        )


def split(corpus: str, pages: dict[str, str]) -> list[Part]:
    held_out = {name: text for name, text in pages.items() if is_held_out(name)}
    train = {name: text for name, text in pages.items() if name not in held_out}
    return [Part.of(f"{corpus}-train", train), Part.of(f"{corpus}-heldout", held_out)]


def readme(parts: list[Part], versions: dict[str, str]) -> str:
    rows = "".join(
        f"| `{part.name}` | {part.pages:,} | {part.text_bytes:,} | {len(part.packed):,} |\n" for part in parts
    )
    sums = "".join(f"{part.sha256}  {part.name.removesuffix('.gz')}\n" for part in parts)
    return f"""# Demo corpora

Plain text of two bodies of technical documentation, split into a part to train on and a part
held out. `make_corpus.py`, one folder up, made every file here and makes it again.

| file | pages | bytes of text | bytes on disk |
|---|---:|---:|---:|
{rows}
* `manual-*`: the PostgreSQL 15 manual, from the Debian package `{POSTGRES_PACKAGE}`
  {versions[POSTGRES_PACKAGE]}. Left out: the index, the bibliography, the key word table and
  pages with nothing but links.
* `rust-*`: a sample of the Rust documentation, from the Debian package `{RUST_PACKAGE}`
  {versions[RUST_PACKAGE]}: the books
  {", ".join(f"`{book}`" for book in RUST_BOOKS)},
  and what the standard library says about its modules and keywords (not the generated lists
  of items). Pages are taken in the order of a hash of their ids, up to {RUST_TEXT_LIMIT:,} bytes
  of text.

## Form

One JSON object a line, `{{"id": "<page>", "text": "<its text>"}}`, sorted by id; a page of the
HTML documentation is a document. Navigation, tables of contents and buttons are gone. A
paragraph is one line; a blank line stands between blocks; code is verbatim; a list item is a
line, and so is a table row, its cells between ` | `.

## Split

By page: a page is held out when the first 8 bytes of the SHA-256 of its id, read as a big-endian
number, are 0 modulo {HELD_OUT_ONE_IN}. Which part a page is in depends on nothing else.

## Make them again

    python3 make_corpus.py            # fetches both packages with apt-get download
    python3 make_corpus.py --postgres-deb FILE --rust-deb FILE

SHA-256 of the unpacked lines (`gunzip -c FILE | sha256sum`):

    {sums.strip().replace(chr(10), chr(10) + "    ")}

## Licences

`LICENSE-postgresql` covers `manual-*`: the PostgreSQL licence, as the manual prints it.
`LICENSE-rust` covers `rust-*`: MIT or Apache-2.0, at your option.
"""


def write(path: Path, content: bytes):
    """Writes the file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CorpusError(f"cannot write {path}: {error}") from error


# --- Packages ---------------------------------------------------------------------------


def command(*words: str | Path, cwd: Path | None = None) -> str:
    line = " ".join(map(str, words))
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CorpusError(f"{words[0]} is not installed: run this on Debian or a system derived from it") from error
    if done.returncode:
        raise CorpusError(f"`{line}` failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def unpack(package: str, deb: Path | None, scratch: Path) -> tuple[Path, str]:
    """The folder a package was unpacked to and the package's version."""
    if deb is None:
        print(f"fetching {package}", file=sys.stderr)
        command("apt-get", "download", package, cwd=scratch)
        deb = next(scratch.glob(f"{package}_*.deb"), None)
        if deb is None:
            raise CorpusError(f"apt-get download left no {package}_*.deb behind")
    elif not deb.is_file():
        raise CorpusError(f"{deb} is not a file")
    name = command("dpkg-deb", "-f", deb, "Package").strip()
    if name != package:
        raise CorpusError(f"{deb} holds the package {name}, not {package}")
    root = scratch / package
    command("dpkg-deb", "-x", deb, root)
    return root, command("dpkg-deb", "-f", deb, "Version").strip()


def make(out: Path, postgres_deb: Path | None, rust_deb: Path | None):
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        postgres, postgres_version = unpack(POSTGRES_PACKAGE, postgres_deb, scratch)
        rust, rust_version = unpack(RUST_PACKAGE, rust_deb, scratch)
        manual = manual_pages(postgres)
        parts = split("manual", manual) + split("rust", sample(rust_pages(rust), RUST_TEXT_LIMIT))
        licences = {"LICENSE-postgresql": manual_licence(postgres), "LICENSE-rust": rust_licence(rust)}

    packed = sum(len(part.packed) for part in parts)
    if packed > COMPRESSED_LIMIT:
        raise CorpusError(f"the compressed files take {packed:,} bytes, more than {COMPRESSED_LIMIT:,}: lower a limit")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"cannot make the folder {out}: {error}") from error
    for part in parts:
        write(out / part.name, part.packed)
        print(f"{part.name}\t{part.pages} pages\t{part.text_bytes} bytes of text\t{len(part.packed)} bytes")
    for name, text in licences.items():
        write(out / name, text.encode())
    versions = {POSTGRES_PACKAGE: postgres_version, RUST_PACKAGE: rust_version}
    write(out / "README.md", readme(parts, versions).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, package in (("--postgres-deb", POSTGRES_PACKAGE), ("--rust-deb", RUST_PACKAGE)):
        parser.add_argument(option, type=Path, metavar="FILE", help=f"the package {package}, already downloaded")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).resolve().parent / "corpus",
        help="where the files go (default: corpus, beside this script)",
    )
    arguments = parser.parse_args()
    try:
        make(arguments.out, arguments.postgres_deb, arguments.rust_deb)
    except CorpusError as error:
        print(f"make_corpus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
